"""Cleaning and token ids equal open_clip's SimpleTokenizer, mojibake repair excepted."""

from __future__ import annotations

import html
import random
from pathlib import Path

import ftfy
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyeshine.clean import clean_clip, clean_lower
from eyeshine.errors import BundleError, OptionError, TextError
from eyeshine.tokenizer import Tokenizer
from eyeshine_export.tokenizer import clip_tokenizer_json, clip_tokenizer_settings

SCRIPTS = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x58F), (0x590, 0x5FF),
    (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x1FFF),
    (0x2000, 0x20CF), (0x2100, 0x218F), (0x2460, 0x24FF), (0x2600, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x4EFF),
    (0xAC00, 0xACFF), (0xFB00, 0xFB06), (0xFE00, 0xFE0F), (0xFF01, 0xFFEF), (0x1D400, 0x1D4FF), (0x1F300, 0x1F6FF),
    (0x2EBF0, 0x2EE5D), (0xE0001, 0xE007F),
)  # fmt: skip
ODD = (
    "", " ", "\t\n \r\n", "   leading and trailing   ", "line\nbreak\r\nand\u2028others\u2029\x0b\x0c\x85",
    "it's we're I'VE don'T he'LL I'd I'M 'RE 'ſ ''s", "snake_case __x__ a_1",
    "12345 3.14 ½ ② Ⅷ ٣", "x" * 900, "a b " * 200,
    "&amp;", "&amp;amp;lt;b&amp;amp;gt;", "&lt;b&gt; &amp;", "<b>&amp;amp;</b>",
    "a &amp;\n<i>\n&amp;amp;", "this&not that",
    "&EACUTE;&NTILDE; &SZLIG; &nTILDE; &Jscr;",
    "&#233;&#xe9;&#XE9; &#59; &#38;#59; &#0; &#x80; &#xd800; &#x110000;",
    "&CounterClockwiseContourIntegral; &notanentity; &#; &;", "“curly” ‘quotes’ ‚low„ ʼn ŉ",
    "ﬁ ﬂ ﬀ ﬃ ﬄ ﬅ ﬆ Ǆ ǆ Ĳ ĳ",
    "ＬＯＵＤ　ＮＯＩＳＥＳ Ｕﾀｰﾝ ｶﾞ", "e\u0301 o\u0308 A\u030a", "İstanbul ǅ ΑΣ ß ẞ K Å",
    "\x00\x07\x1b\x7f\ufeffx\ufffc\u206a",
    "\x1b[31mred\x1b[0m \x1b[1;٣2mX \x1b[\x1b[0mm", "\ud83d\ude00 \ud83d x\udc00 \udc00\ud83d",
    "\ud83d", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪",
    "<start_of_text>a cat<end_of_text>", "!<end_of_text>",
    "<START_OF_TEXT> <End_Of_Text><start_of_text>", "<end of_text>",
    "<ſtart_of_text> <start_of <end_of_text", "&lt;start_of_text&gt;", "\u0345 α\u0345 ⓐⒷ",
    "\x81\x8d\x90", "a\x96b\x85",
)  # fmt: skip
CAPTIONS = tuple(
    f"{start} {colour} {thing}{end}"
    for start in ("a photo of a", "A close-up of the", "an oil painting of one", "two", "there's a")
    for colour in ("red", "Dark-Blue", "10-year-old", "café-au-lait")
    for thing in ("cat", "T-shirt", "fire hydrant", "St. Bernard", "naïve Zürich tram", "keyboard & mouse")
    for end in ("", ".", ", on grass!", ' with "SALE 50%" on it')
)


def generated(count: int) -> list[str]:
    draw = random.Random(20)
    words = [
        "&amp;",
        "&#39;",
        "&eacute;",
        "’s",
        "'RE",
        " ",
        "  ",
        "\n",
        "\u200d",
        "\ufe0f",
        "_",
        "42",
        "cat",
        "\x1b[0m",
        "<",
    ]
    texts = []
    for _ in range(count):
        low, high = draw.choice(SCRIPTS)
        parts = [
            draw.choice(words)
            if draw.random() < 0.2
            else chr(draw.randint(*draw.choice([(low, high), (low, high), (32, 126)])))
            for _ in range(draw.randint(1, 40))
        ]
        texts.append("".join(parts))
    return texts


def has_mojibake(text: str) -> bool:
    """ftfy's encoding repair changes it: the one repair that eyeshine leaves out."""
    return ftfy.fix_text(text) != ftfy.fix_text(text, fix_encoding=False)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(clip_tokenizer_json(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def ours(saved) -> Tokenizer:
    return Tokenizer.load(saved, **clip_tokenizer_settings())


@pytest.fixture(scope="session")
def theirs():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def assert_same(ours: Tokenizer, theirs, texts: list[str]) -> None:
    expected, got = theirs(texts).numpy(), ours.encode(texts, truncate=True)
    assert got.dtype == np.int64
    wrong = [text for text, a, b in zip(texts, expected, got, strict=True) if not np.array_equal(a, b)]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, among them {wrong[:5]!r}"


def test_equals_open_clip_on_many_scripts(ours, theirs):
    texts = [*CAPTIONS, *ODD, *generated(2500)]
    compared = [text for text in texts if not has_mojibake(text)]
    assert len(compared) >= 2500
    assert len(texts) - len(compared) < 0.1 * len(texts), "too many strings are excluded as mojibake"
    assert_same(ours, theirs, compared)


def test_ordinary_and_odd_texts_are_not_excluded_as_mojibake():
    assert [text for text in (*CAPTIONS, *ODD) if has_mojibake(text)] == []


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=60))
@example("\ud800\udc00\ud800")
def test_equals_open_clip_on_any_text(ours, theirs, text):
    if not has_mojibake(text):
        assert_same(ours, theirs, [text])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["&", "amp;", "#38;", "lt;", "<", "\n", "#x1b;", "[0m", "\x1b", "#60;", "b", "#10;", ";"]))
)
def test_nested_entities_and_escapes_clean_alike(parts):
    from open_clip.tokenizer import get_clean_fn

    text = "".join(parts)
    assert clean_clip(text) == get_clean_fn("lower")(text)


def test_every_html_entity_cleans_alike():
    from open_clip.tokenizer import get_clean_fn

    names = {f"&{form}" for name in html.entities.html5 for form in (name, name.upper(), name.lower(), name.title())}
    clean = get_clean_fn("lower")
    assert [name for name in names if clean_clip(name) != clean(name)] == []


def test_every_character_cleans_and_splits_alike(ours, theirs):
    """Between letters, so that marks and word limits show; C1 controls are left to the mojibake repair."""
    codes = [code for code in range(0x110000) if code not in range(0x80, 0xA0) and not 0xD800 <= code < 0xE000]
    # Planes 4 to 16 hold no assigned characters but tags, selectors and private ones: every 61st is enough of them.
    lines = [f"a{chr(code)}b" for code in codes if code < 0x40000 or 0xE0000 <= code < 0xE0200 or code % 61 == 0]
    wrong = []
    for first in range(0, len(lines), 1000):
        text = "\n".join(lines[first : first + 1000])
        fixed = html.unescape(html.unescape(ftfy.fix_text(text, fix_encoding=False)))
        cleaned = " ".join(fixed.split()).lower()
        ids = ours.backend.encode(cleaned, add_special_tokens=False).ids
        if clean_clip(text) != cleaned or ids != theirs.encode(cleaned):
            wrong.append(lines[first])
    assert wrong == []


def test_mojibake_is_left_as_typed():
    assert clean_clip("schÃ¶n") == "schã¶n"


def test_lower_cleaning_changes_nothing_but_space_and_case():
    assert clean_lower("  A &amp;\n “B” ") == "a &amp; “b”"


def test_too_long_text_is_refused_and_names_its_length(ours):
    with pytest.raises(TextError, match=r"got 102 tokens.*up to 77.*truncate") as caught:
        ours.encode(["short", "cat " * 100])
    assert "cat cat" in str(caught.value)
    assert "short" not in str(caught.value.what)


def test_truncation_keeps_the_end(ours):
    row = ours.encode(["cat " * 100], truncate=True)[0]
    assert (row[0], row[1], row[75], row[76]) == (49406, 2368, 2368, 49407)


def test_longest_text_that_fits(ours):
    assert ours.encode(["cat " * 75])[0, -1] == 49407
    with pytest.raises(TextError):
        ours.encode(["cat " * 76])


def test_shorter_context(saved, theirs):
    ours = Tokenizer.load(saved, **clip_tokenizer_settings(context_length=16))
    assert np.array_equal(ours.encode(["a b c " * 9], truncate=True), theirs(["a b c " * 9], context_length=16).numpy())


def test_no_texts_gives_no_rows(ours):
    assert ours.encode([]).shape == (0, 77)


@pytest.mark.parametrize("texts", ["a cat", b"a cat", [b"a cat"], [None]])
def test_texts_must_be_a_list_of_strings(ours, texts):
    with pytest.raises(TextError):
        ours.encode(texts)


def test_export_is_deterministic(saved):
    assert clip_tokenizer_json() == saved.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"{}", b"not json", b"\xff\xfe"])
def test_damaged_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json.*cure"):
        Tokenizer.load(path, **clip_tokenizer_settings())


@pytest.mark.parametrize("wrong", [{"context_length": 2}, {"start": -1}, {"unknown": -5}, {"clean": "Clip"}])
def test_settings_check_themselves(wrong):
    with pytest.raises(OptionError, match="allowed"):
        Tokenizer(None, **{"context_length": 8, "start": 1, "end": 2} | wrong)


@pytest.fixture
def words(tmp_path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    backend = Backend(
        WordLevel({"[pad]": 0, "[s]": 1, "[e]": 2, "[unk]": 3, "a": 4, "red": 5, "cat": 6}, unk_token="[unk]")
    )
    backend.pre_tokenizer = Whitespace()
    path = tmp_path / "tokenizer.json"
    backend.save(str(path))
    return Tokenizer.load(path, context_length=8, start=1, end=2, unknown=3, clean="lower")


def test_word_tokenizer_names_unknown_words(words):
    assert words.encode(["A red  zebra cat"]).tolist() == [[1, 4, 5, 3, 6, 2, 0, 0]]
    assert words.unknown_words("A   Zebra, red ÜBERcat zebra") == ["zebra", ",", "übercat"]
    assert words.unknown_words("a red cat") == []


def test_spelling_tokenizer_knows_every_word(ours):
    assert ours.unknown_words("qwzxv 𝒥") == []
