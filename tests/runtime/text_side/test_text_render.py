"""Coloured texts in the terminal, HTML and PNG, and what ``eyeshine explain --side`` prints and writes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyeshine.cli import main
from eyeshine.text_side import TextExplanation
from eyeshine.text_side.render import cells, tint
from eyeshine.text_side.saving import save_text_results
from eyeshine.tokenizer import Pieces


def pieces(text: str, *spans: tuple[int, int]) -> Pieces:
    names = tuple(text[a:b] for a, b in spans)
    return Pieces(text, np.arange(len(spans) + 2), names, spans)


def explanation(*texts: tuple[Pieces, list[float]]) -> TextExplanation:
    longest = max(len(values) for _, values in texts)
    relevance = np.array([[values + [0.0] * (longest - len(values)) for _, values in texts]], np.float32)
    return TextExplanation(
        texts=tuple(each.text for each, _ in texts), pieces=tuple(each for each, _ in texts), relevance=relevance,
        similarities=np.linspace(0.3, -0.1, len(texts), dtype=np.float32)[None], method="grad_eclip", signed=True,
        bundle="none", engine={}, timings_ms={},
    )  # fmt: skip


SIGNED = explanation(
    (pieces("a <b> & dog", (0, 1), (2, 5), (6, 7), (8, 11)), [0.0, 0.5, -0.25, 1.0]),
    (pieces("night", (0, 5)), [-0.5]),
)


def test_cells_cover_the_whole_text_and_pieces_of_one_character_are_one():
    assert cells(pieces("red car, cut off", (0, 3), (4, 7), (7, 8)), np.array([0.5, 1, 0], np.float32)) == [
        ("red", 0.5), (" ", 0.0), ("car", 1.0), (",", 0.0), (" cut off", 0.0),
    ]  # fmt: skip
    assert cells(pieces("漢a", (0, 1), (0, 1), (0, 1), (1, 2)), np.array([0.1, -0.9, 0.2, 0.3], np.float32)) == [
        ("漢", pytest.approx(-0.9)), ("a", pytest.approx(0.3)),
    ]  # fmt: skip


def test_levels_are_shared_by_several_texts_and_each_can_reach_one():
    shared, each = SIGNED.levels(), SIGNED.levels(scale="each")
    assert shared[1].tolist() == [-0.5]
    assert each[1].tolist() == [-1.0]
    assert shared[0].tolist() == each[0].tolist() == [0.0, 0.5, -0.25, 1.0]


def test_a_tint_grows_from_paper_to_orange_or_blue():
    assert tint(0.0) == (250, 249, 247)
    assert tint(1.0) == (240, 120, 20)
    assert tint(-1.0) == (30, 100, 200)
    assert [tint(level)[2] for level in (0.0, 0.25, 0.5, 1.0)] == sorted(tint(x)[2] for x in (0, 0.25, 0.5, 1))[::-1]


def test_the_terminal_colours_what_has_relevance_and_nothing_else():
    first, second = SIGNED.terminal()
    assert first.plain == "a <b> & dog"
    coloured = {first.plain[span.start : span.end]: str(span.style) for span in first.spans}
    assert set(coloured) == {"<b>", "&", "dog"}
    assert coloured["dog"].endswith("on #f07814")
    assert str(second.spans[0].style).endswith("on #8caee0")


class Reader(HTMLParser):
    """Text, tags and colours of a snippet."""

    def __init__(self):
        super().__init__()
        self.text, self.open, self.colours = "", [], {}

    def handle_starttag(self, tag, attributes):
        self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "span":
            self.colours[data] = attributes


def test_html_is_one_escaped_snippet_that_needs_nothing_else():
    snippet = SIGNED.html()
    reader = Reader()
    reader.feed(snippet)
    reader.close()
    assert not reader.open
    assert "a <b> & dog" in reader.text
    assert "+0.300" in reader.text
    assert reader.colours["dog"]["style"].startswith("background:#f07814")
    assert reader.colours["&"]["title"] == "-0.25"
    assert "<b>" not in snippet
    assert snippet.count('<p dir="auto">') == 2  # a text of a script from right to left begins at the right
    assert "http" not in snippet
    assert "<script" not in snippet


def test_the_picture_holds_every_token_in_its_colour_and_breaks_lines():
    picture = np.asarray(SIGNED.picture())
    found = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert {tint(1.0), tint(0.5), tint(-0.25), tint(-0.5)} <= found
    words = " ".join(f"word{k}" for k in range(60))
    spans = [match.span() for match in re.finditer(r"\S+", words)]
    long = explanation((pieces(words, *spans), [1.0] * 60)).picture()
    assert long.width == SIGNED.picture().width
    assert long.height > 3 * 40
    right = np.asarray(long)[:, -16:]
    assert (right == right[0, 0]).all()  # nothing runs into the margin
    wide = explanation((pieces("x" * 300, (0, 300)), [1.0])).picture()
    assert wide.height > 3 * 40


def test_texts_of_any_script_are_drawn_and_saved(tmp_path):
    text = "كلب 🐕 dog"
    shown = explanation((pieces(text, (0, 3), (4, 5), (6, 9)), [1.0, -0.5, 0.2]))
    page, picture = (
        next(p for p in save_text_results(shown, tmp_path, "a") if p.suffix == s) for s in (".html", ".png")
    )
    said = page.read_bytes().decode("utf-8")
    assert '<meta charset="utf-8">' in said
    assert all(part in said for part in ("كلب", "🐕", "dog"))
    found = {tuple(colour) for colour in np.asarray(Image.open(picture)).reshape(-1, 3).tolist()}
    assert {tint(1.0), tint(-0.5)} <= found


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return str(path)


def explain(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *arguments])
    return stopped.value.code


def test_the_command_line_prints_words_and_writes_pictures(photo, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    shared = ["-b", str(tiny_bundle), "--threads", "1", "-t", "a red car", "-t", "dog"]
    assert explain(photo, *shared, "--side", "text", "-m", "attention", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "text side" in printed
    assert "a red car" in printed
    assert "dog 100%" in printed
    assert sorted(path.name for path in out.iterdir()) == [f"street.text.{kind}" for kind in ("html", "json", "png")]
    record = json.loads((out / "street.text.json").read_text())
    assert record["texts"][0]["tokens"] == ["a", "red", "car"]
    assert explain(photo, *shared, "--side", "both", "--out", str(out), "--json", "-s", "signed=true") == 0
    both = json.loads(capsys.readouterr().out)
    assert both["text_side"]["signed"] is True
    assert both["similarities"][1] == pytest.approx(both["text_side"]["texts"][1]["similarity"], abs=1e-5)
    assert {Path(file).name for file in both["outputs"]} >= {"street.1-a-red-car.png", "street.npz", "street.text.png"}


def test_settings_go_to_the_sides_that_have_them(photo, tiny_bundle, capsys):
    shared = [photo, "-b", str(tiny_bundle), "--threads", "1", "-t", "a red car", "--json"]
    assert explain(*shared, "--side", "both", "-m", "chefer", "--text-method", "grad_eclip", "-s", "signed=true") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["text_side"]["method"], found["text_side"]["signed"]) == (
        "chefer",
        "grad_eclip",
        True,
    )
    refused = (
        ["--side", "both", "-s", "nonsense=1"],
        ["--side", "text", "-s", "mode=notebook"],
        ["--text-method", "chefer"],
        ["--side", "text", "--against", "a dog"],
        ["--side", "sound"],
    )
    for wrong in refused:
        assert explain(*shared, *wrong) == 2
        assert "error: " in capsys.readouterr().err


def test_methods_of_the_text_side_are_listed_with_what_runs_them(tiny_bundle, capsys):
    with pytest.raises(SystemExit):
        main(["methods", "--side", "text", "--bundle", str(tiny_bundle), "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["grad_eclip", "chefer", "attention", "mmel", "mmel_literal", "nib", "m2ib"]
    assert rows["attention"]["uses_text"] is False
    assert rows["attention"]["signals"] == ["text_attention"]
    assert "signed" in rows["grad_eclip"]["settings"]
    runs = {name: row["graphs"] for name, row in rows.items()}
    assert runs.pop("nib") == []  # three blocks, where the tiny text tower has two
    assert runs.pop("m2ib") == ["text_tail_2"]
    assert rows["nib"]["signals"] == ["text_hidden", "text_state_gradient"]
    assert runs == {name: ["words"] for name in runs}
    with pytest.raises(SystemExit):
        main(["methods", "grad_eclip", "--side", "text", "--bundle", str(tiny_bundle)])
    assert "signed=False" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["methods", "--side", "both"])
    assert stopped.value.code == 2
