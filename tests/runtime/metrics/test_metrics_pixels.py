"""Segmentation scores against slow loops and scikit-learn, and scores of another text than the explained one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from eyeshine.errors import OptionError, TextError
from eyeshine.metrics import Deletion, PixelAp, Segmentation, Steps, evaluate
from eyeshine.preprocess import CropBox
from eyeshine.upsample import to_image

CROP = CropBox(4, 36, 11, 59, 40, 70)


def read(metric, case):
    return metric.read(case, {})


def a_case(case_of, seed):
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, 40, 70), bool)
    for mask in masks:
        y, x = rng.integers(0, 28), rng.integers(0, 50)
        mask[y : y + 12, x : x + 20] = True
    return case_of(rng.normal(size=(4, 6)), crop=CROP, size=(40, 70), masks=masks)


def seen_pixels(case):
    """(heat, is object) of the pixels that the model saw, one by one."""
    heat = to_image(case.map, case.crop)
    return [
        (float(heat[y, x]), bool(case.masks[:, y, x].any()))
        for y in range(40)
        for x in range(70)
        if CROP.y0 <= y + 0.5 <= CROP.y1 and CROP.x0 <= x + 0.5 <= CROP.x1
    ]


@pytest.mark.parametrize("seed", range(4))
def test_segmentation_counts_as_a_slow_loop(case_of, seed):
    case = a_case(case_of, seed)
    pixels = seen_pixels(case)
    mean = sum(heat for heat, _ in pixels) / len(pixels)
    score = read(Segmentation(), case)
    parts = dict(score.parts)
    assert parts["labelled"] == len(pixels)
    assert parts["correct"] == sum((heat > mean) == truth for heat, truth in pixels)
    ious = []
    for name, side in (("object", True), ("background", False)):
        inter = sum(truth == side and (heat > mean) == side for heat, truth in pixels)
        union = sum(truth == side or (heat > mean) == side for heat, truth in pixels)
        assert (parts[f"{name}_inter"], parts[f"{name}_union"]) == (inter, union)
        ious.append(inter / union)
    assert score.value == pytest.approx(sum(ious) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_of_both_is_that_of_scikit_learn(case_of, seed):
    case = a_case(case_of, seed)
    heat, truth = map(np.array, zip(*seen_pixels(case), strict=True))
    share = (heat - heat.min()) / np.ptp(heat)
    ranked, labels = np.concatenate([1 - share, share]), np.concatenate([~truth, truth])
    assert read(PixelAp(both=True), case).value == pytest.approx(average_precision_score(labels, ranked), abs=1e-9)
    assert read(PixelAp(), case).value == pytest.approx(average_precision_score(truth, heat), abs=1e-9)


def test_a_flat_map_is_all_background(case_of):
    masks = np.zeros((1, 16, 16), bool)
    masks[0, :4] = True
    case = case_of(np.full((2, 2), 0.3), masks=masks)
    parts = dict(read(Segmentation(), case).parts)
    assert (parts["correct"], parts["labelled"]) == (12 * 16, 256)
    assert (parts["object_inter"], parts["object_union"]) == (0, 64)
    assert read(PixelAp(both=True), case).value == 0.5


def test_a_photo_of_one_pixel_is_ranked(case_of):
    """Its heat has no range, though the map has."""
    case = case_of([[0.0, 1.0], [1.0, 1.0]], size=(1, 1), masks=np.ones((1, 1, 1), bool))
    heat = np.zeros(1)
    expected = average_precision_score([True, False], np.concatenate([heat, 1 - heat]))
    with np.errstate(all="raise"):
        assert read(PixelAp(both=True), case).value == pytest.approx(expected)


def test_a_mask_of_everything_has_no_background_to_find(case_of):
    """A map above its mean everywhere does not exist, so the background is missed and not undefined."""
    case = case_of([[0.0, 1.0], [1.0, 1.0]], masks=np.ones((1, 16, 16), bool))
    parts = dict(read(Segmentation(), case).parts)
    assert parts["background_inter"] == 0 < parts["background_union"]
    assert read(Segmentation(), case).value == pytest.approx(parts["object_inter"] / 256 / 2)


CURVE = {"deletion": Deletion("prob", Steps(points=5)), "rank": Deletion("top1", Steps(points=5))}
LABELS = ["a dog", "a cat", "the red car"]


def test_the_scored_text_is_not_the_explained_one(tiny, photo):
    """The map is of the explained text, the curve of the scored one: both differ from explaining the scored text."""
    found = tiny.explain(photo(1), LABELS[:2])
    crossed = evaluate(tiny, found, metrics=CURVE, labels=LABELS, scored=LABELS[1])
    own = evaluate(tiny, found, metrics=CURVE, labels=LABELS)
    assert crossed.score("deletion", 0, 1) == own.score("deletion", 0, 1)
    curve, other = crossed.score("deletion", 0, 0).curve, own.score("deletion", 0, 0).curve
    assert curve[0] == own.score("deletion", 0, 1).curve[0]  # the whole image, scored for the second text
    assert [x for x, _ in curve] == [x for x, _ in other]
    assert all(a != b for (_, a), (_, b) in zip(curve, other, strict=True))
    assert curve[1:-1] != own.score("deletion", 0, 1).curve[1:-1]  # the first text's map


def test_one_scored_text_for_each_explained(tiny, photo):
    found = tiny.explain(photo(1), LABELS[:2])
    swapped = evaluate(tiny, found, metrics=CURVE, labels=LABELS, scored=[LABELS[1], LABELS[0]])
    one = evaluate(tiny, found, metrics=CURVE, labels=LABELS, scored=LABELS[0])
    assert swapped.score("deletion", 0, 1) == one.score("deletion", 0, 1)
    with pytest.raises(OptionError, match="scored text"):
        evaluate(tiny, found, metrics=CURVE, labels=LABELS, scored=["a dog"])
    with pytest.raises(TextError, match="blank"):
        evaluate(tiny, found, metrics=CURVE, labels=LABELS, scored=["a dog", " "])


def test_another_seed_draws_other_ties(tiny, photo):
    steps = Deletion(steps=Steps(points=7, fill="random"))
    assert steps.seeded(3).steps.seed == 3
    assert steps.seeded(0) == steps
    assert steps.shares == (0.0, *(k / 7 for k in range(1, 8)))
    found = tiny.explain(photo(1), ["a dog"])
    values = [evaluate(tiny, found, metrics={"d": steps.seeded(seed)}).score("d").value for seed in (0, 1, 1)]
    assert values[0] != values[1] == values[2]
