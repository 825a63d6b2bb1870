"""Verdicts on planted cases: a short version of ``benchmarks.dual_calibration evaluate``, on other held-out scenes."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from benchmarks.dual_calibration import calibrated, confusion, rows, share_right, table
from benchmarks.dual_cases import plant

from eyeshine import Explainer, roads
from eyeshine.dual import Thresholds
from eyeshine.dual.thresholds import WITHOUT_MAPS

FIRST, CASES = roads.HELD_OUT_FROM + 800_000, 21


@pytest.fixture(scope="module")
def explainer():
    return Explainer.load(threads=1)


@pytest.fixture(scope="module")
def found(explainer):
    return rows(explainer, FIRST, CASES)


def test_most_verdicts_are_as_planted_and_the_maps_help(found):
    with_maps, without = share_right(found, Thresholds(), maps=True), share_right(found, WITHOUT_MAPS, maps=False)
    assert with_maps >= 0.8, table(confusion(found, Thresholds(), maps=True))
    assert with_maps > without


def test_cases_are_what_the_scenes_hold(explainer):
    """What was planted, read again from the scene's list of objects and not by the code that planted it."""
    for case in islice(plant(explainer, FIRST), 14):
        scene = roads.render(seed=case.seed)
        there = {thing.label for thing in scene.objects}
        named = {label for label in roads.LABELS if f" {label}" in f" {case.answer}"}
        assert len(named) == 1, case.answer
        wrong = case.kind == "ungrounded" or case.variant.startswith("wrong")
        assert (not named <= there) == wrong, (case.kind, case.variant)
        assert (case.image != scene.image).any() == case.variant.endswith("covered")
        if case.kind == "generic":
            assert not any(label in case.prompt for label in roads.LABELS)


def test_calibration_finds_what_separates(found):
    """From thresholds that fit nothing back to verdicts that are better than those by default on these very rows."""
    start = Thresholds(presence=50.0, image=50.0)
    assert share_right(found, start, maps=True) < 0.3
    best = calibrated(found, start, maps=True)
    assert share_right(found, best, maps=True) >= share_right(found, Thresholds(), maps=True)


def test_the_table_counts_every_case_once(found):
    counts = confusion(found, Thresholds(), maps=True)
    assert sum(counts.values()) == CASES
    lines = table(counts).splitlines()
    assert f"of {CASES} verdicts are right" in lines[-1]
    cells = [cell for line in lines[2:-2] for cell in line.split(" | ")[1:-1] if cell.strip()]
    assert int(np.sum([int(cell) for cell in cells])) == CASES
