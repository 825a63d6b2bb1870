"""Pairs of methods, the matrix of what they have in common, and the reports of the checks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from eyeshine.datasets import Roads
from eyeshine.errors import OptionError, SignalError
from eyeshine.methods import METHODS, GradEclip
from eyeshine.study.sanity import (
    Disagreement,
    Randomisation,
    Subjects,
    compare_methods,
    randomise_weights,
    spearman,
    summarise,
    top_overlap,
    write_report,
    write_rows,
)

NAMES = ("grad_eclip", "attention", "clip_surgery", "saliency")


def subjects_of(names=NAMES, count=2):
    return Subjects(dataset=Roads(count, size=64), methods={name: METHODS[name] for name in names}, limit=count)


@pytest.fixture
def rows(tiny):
    return list(compare_methods(tiny, subjects_of(), Disagreement(share=0.25)))


def test_every_pair_is_compared_once(tiny, rows):
    assert len(rows) == 2 * 6
    pairs = [(row["first"], row["second"]) for row in rows[:6]]
    assert len({frozenset(each) for each in pairs}) == 6
    sample = next(subjects_of().dataset.samples()).open()
    maps = {name: tiny.explain(sample.image, sample.texts, method=name).maps[0, 0] for name in NAMES}
    for row in rows[:6]:
        one, other = maps[row["first"]], maps[row["second"]]
        assert row["spearman"] == pytest.approx(spearman(one, other))
        assert row["top_overlap"] == pytest.approx(top_overlap(one, other, 0.25))


def test_a_method_agrees_with_itself_and_not_with_its_reverse(tiny):
    class Reversed(GradEclip):
        name = "reversed"

        def maps(self, signals, prompts):
            return -super().maps(signals, prompts)

    methods = {"one": GradEclip(), "same": GradEclip(), "reversed": Reversed()}
    (first, second, third) = compare_methods(
        tiny, Subjects(dataset=Roads(1, size=64), methods=methods, limit=1), Disagreement()
    )
    assert first["spearman"] == pytest.approx(1)
    assert first["top_overlap"] == 1
    assert second["spearman"] == third["spearman"] == pytest.approx(-1)


def test_signs_are_compared_where_methods_have_them(tiny):
    class Signed(GradEclip):
        name = "signed"

        def maps(self, signals, prompts):
            maps = super().maps(signals, prompts)
            return maps - maps.mean(-1, keepdims=True)

    class Other(Signed):
        name = "other"

        def maps(self, signals, prompts):
            return super().maps(signals, prompts)[..., ::-1]

    methods = {"signed": Signed(), "other": Other(), "attention": METHODS["attention"]}
    subjects = Subjects(dataset=Roads(1, size=64), methods=methods, limit=1)
    rows = list(compare_methods(tiny, subjects, Disagreement()))
    sample = next(subjects.dataset.samples()).open()
    one, other = (tiny.explain(sample.image, sample.texts, method=methods[n]).maps[0, 0] for n in ("signed", "other"))
    assert rows[0]["sign_agreement"] == pytest.approx(((one > 0) == (other > 0)).mean())
    assert 0 < rows[0]["sign_agreement"] < 1
    assert [row["sign_agreement"] for row in rows[1:]] == [None, None]  # attention has one sign: nothing to compare


def test_the_report_has_the_matrix(rows, tmp_path):
    assert write_rows(iter(rows), tmp_path) == rows
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()] == rows
    text = write_report("methods", rows, {"bundle": "tiny", "samples": 2}, tmp_path).read_text("utf-8")
    mean = summarise(rows, ("first", "second"), "spearman")["grad_eclip", "attention"]
    table = [line for line in text.splitlines() if line.startswith("| grad_eclip |")]
    assert f" {mean.value:.2f} " in table[0]
    assert f"{np.mean([r['spearman'] for r in rows if (r['first'], r['second']) == NAMES[:2]]):.2f}" in table[0]
    with Image.open(tmp_path / "spearman.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 20
    with pytest.raises(OptionError, match=r"results already"):
        write_rows(iter(rows), tmp_path)


def test_the_report_of_a_cascade_has_every_step(tiny, tmp_path):
    subjects = subjects_of(("grad_eclip", "attention"), 1)
    rows = write_rows(randomise_weights(tiny, subjects, Randomisation(seeds=(0,))), tmp_path)
    rows += [
        {"method": "attention", "key": "x", "text": "x", "seed": 0, "step": "head", "error": "a map was not finite"}
    ]
    text = write_report("weights", rows, {"bundle": "tiny"}, tmp_path).read_text("utf-8")
    for step in ("original", "head", "block 3", "block 0", "embeddings"):
        assert step in text
    assert "1 of" in text
    assert "a map was not finite" in text
    assert "attention, head: 1" in text
    for name in ("spearman.png", "ssim.png", "spearman_abs.png"):
        assert (tmp_path / name).is_file()


def test_what_cannot_be_compared_is_told(tiny, tmp_path):
    with pytest.raises(OptionError, match=r"two methods or more"):
        list(compare_methods(tiny, subjects_of(("attention",)), Disagreement()))
    with pytest.raises(OptionError, match=r"without a method"):
        Subjects(dataset=Roads(1), methods={})
    lacking = {"grad_eclip": GradEclip(layers=4), "attention": METHODS["attention"]}  # the bundle explains 3 blocks
    with pytest.raises(SignalError, match=r"4 block"):
        list(compare_methods(tiny, Subjects(dataset=Roads(1), methods=lacking), Disagreement()))
    with pytest.raises(OptionError, match=r"no rows"):
        write_report("methods", [], {}, tmp_path)
