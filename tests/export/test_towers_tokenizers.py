"""Tokenizers that text towers of other kinds were trained with: ids are those of the ``tokenizers`` library itself."""

import json

import numpy as np
import pytest
from tokenizers import processors

from eyeshine.clean import clean_canonical, clean_clip, clean_whitespace
from eyeshine.errors import ExportError, UnsupportedError
from eyeshine.tokenizer import Tokenizer
from eyeshine_export.compat import import_open_clip
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.words import read_tokenizer
from foreign import saved, sentencepiece, wordpiece
from tiny import tiny_config

TEXTS = ["A red car!", "two dogs, on_the LEFT", "zebra", "a photo of a house " * 9, "road"]
CONTEXT = 12


def config_of(**text):
    settings = {"pool_type": "last", "no_causal_mask": True, "hf_tokenizer_name": "owner/name", "vocab_size": 100}
    return parse_config("tiny", tiny_config(text={**settings, **text})).text


def runtime_of(path, folder, text):
    tokens = read_tokenizer(path, text)
    (folder / "own.json").write_text(tokens.json, "utf-8")
    return Tokenizer.load(
        folder / "own.json", context_length=CONTEXT, start=tokens.start, end=tokens.end, pad=tokens.pad,
        unknown=tokens.unknown, clean=tokens.clean,
    )  # fmt: skip


def expected_ids(backend, pad, clean):
    """The library's own cutting, special tokens and padding, as Hugging Face's tokenizers call it."""
    backend.enable_truncation(CONTEXT)
    backend.enable_padding(pad_id=pad, length=CONTEXT)
    return np.array([backend.encode(clean(text)).ids for text in TEXTS])


@pytest.mark.parametrize("pad", ["</s>", {"content": "<pad>"}])
def test_sentencepiece_ends_a_text_and_begins_with_nothing(tmp_path, pad):
    backend, text = sentencepiece(), config_of(tokenizer_kwargs={"clean": "canonicalize"})
    ours = runtime_of(saved(backend, tmp_path, pad), tmp_path, text)
    pad_id = 0 if isinstance(pad, dict) else 1
    assert (ours.start, ours.end, ours.pad, ours.unknown) == (None, 1, pad_id, 2)
    assert np.array_equal(ours.encode(TEXTS, truncate=True), expected_ids(backend, pad_id, clean_canonical))
    assert ours.unknown_words("a red Ω car") == ["Ω".lower()]


@pytest.mark.parametrize("strip", [False, True])
def test_wordpiece_begins_and_ends_a_text(tmp_path, strip):
    """CLIPA's code turns the end token into padding: open_clip's ``strip_sep_token``."""
    backend, text = wordpiece(), config_of(tokenizer_kwargs={"strip_sep_token": True} if strip else {})
    ours = runtime_of(saved(backend, tmp_path, "[PAD]"), tmp_path, text)
    expected = expected_ids(backend, 0, clean_whitespace)
    assert np.array_equal(ours.encode(TEXTS, truncate=True), np.where(expected == 3, 0 if strip else 3, expected))


def test_padding_that_the_file_itself_names(tmp_path):
    backend = wordpiece()
    backend.enable_padding(pad_id=7, length=20)
    backend.enable_truncation(5)
    tokens = read_tokenizer(saved(backend, tmp_path), config_of())
    assert tokens.pad == 7
    stored = json.loads(tokens.json)
    assert (stored["padding"], stored["truncation"], stored["post_processor"]) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "text", "message"),
    [
        ({}, {"vocab_size": 10}, r"tokenizer and text tower disagree.*id \d+.*below 10"),
        ({}, {"pool_type": "eos", "eos_id": 2, "no_causal_mask": False}, r"end id 1.*2 \(eos_id\)"),
        ({"pad": None}, {}, r"does not say what it pads with.*tokenizer_config\.json"),
        ({"pad": "<none>"}, {}, "does not say what it pads with"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_an_error(tmp_path, change, text, message):
    path = saved(sentencepiece(), tmp_path, change.get("pad", "</s>"))
    with pytest.raises(ExportError, match=message):
        read_tokenizer(path, config_of(**text))


def test_a_tokenizer_that_adds_nothing_is_refused(tmp_path):
    backend = sentencepiece()
    backend.post_processor = processors.ByteLevel()
    with pytest.raises(UnsupportedError, match="must end a text with one token"):
        read_tokenizer(saved(backend, tmp_path, "</s>"), config_of())


@pytest.mark.parametrize(
    ("ours", "theirs"), [(clean_clip, "lower"), (clean_whitespace, "whitespace"), (clean_canonical, "canonicalize")]
)
@pytest.mark.parametrize(
    "text", [" A  snake_case\n“Quote”, it's &amp;amp; <b>50%</b>!", "İSTANBUL_ß #1", "", "a&lt;b", "ﬁ—x"]
)
def test_cleanings_are_open_clips(ours, theirs, text):
    import_open_clip()
    from open_clip.tokenizer import get_clean_fn

    assert ours(text) == get_clean_fn(theirs)(text)
