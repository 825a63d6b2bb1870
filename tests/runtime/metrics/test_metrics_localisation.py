"""Maps against masks, by slow definitions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from eyeshine.errors import OptionError
from eyeshine.metrics import EnergyPointingGame, MultiObjectHitRate, PixelAp, PixelIou, PointingGame
from eyeshine.preprocess import CropBox

ALL = [PointingGame(), EnergyPointingGame(), MultiObjectHitRate(), PixelAp(), PixelIou()]
CROP = CropBox(4.0, 36.0, 10.25, 58.25, 40, 70)  # 32 x 48 of a photo of 40 x 70: columns 10..57 are seen


@pytest.fixture(scope="module")
def case(case_of):
    """A signed map of four by six patches over part of a photo, with two objects."""
    masks = np.zeros((2, 40, 70), bool)
    masks[0, 8:20, 12:25] = True
    masks[1, 25:39, 40:69] = True
    patch_map = np.random.default_rng(2).normal(size=(4, 6))
    return case_of(patch_map, crop=CROP, size=(40, 70), masks=masks)


def seen_pixels(crop=CROP):
    for y in range(crop.height):
        for x in range(crop.width):
            if crop.y0 <= y + 0.5 <= crop.y1 and crop.x0 <= x + 0.5 <= crop.x1:
                yield y, x


def slow_value(patch_map, y, x, crop=CROP):
    """The map at the centre of a pixel, bilinear between the centres of the patches, in float64."""
    rows, columns = patch_map.shape
    v = min(max((y + 0.5 - crop.y0) / (crop.y1 - crop.y0) * rows - 0.5, 0), rows - 1)
    u = min(max((x + 0.5 - crop.x0) / (crop.x1 - crop.x0) * columns - 0.5, 0), columns - 1)
    top, left = min(int(v), rows - 2), min(int(u), columns - 2)
    a, b = v - top, u - left
    above = (1 - b) * float(patch_map[top, left]) + b * float(patch_map[top, left + 1])
    below = (1 - b) * float(patch_map[top + 1, left]) + b * float(patch_map[top + 1, left + 1])
    return (1 - a) * above + a * below


@pytest.fixture(scope="module")
def pixels(case):
    """(row, column, value, on an object) of every pixel that the model saw."""
    return [(y, x, slow_value(case.map, y, x), bool(case.masks[:, y, x].any())) for y, x in seen_pixels()]


def read(metric, case):
    return metric.read(case, {})


def test_pointing_game(case, pixels):
    y, x, _, hit = max(pixels, key=lambda pixel: pixel[2])
    assert read(PointingGame(), case).value == hit
    share = sum(p[3] for p in pixels) / len(pixels)
    assert read(PointingGame(weighted=True), case).value == pytest.approx(hit * (1 - share))
    distance = min(((y - v) ** 2 + (x - u) ** 2) ** 0.5 for v, u, _, on in pixels if on)
    for tolerance in (1, 2.5, 5, 9, 15, 30):
        assert read(PointingGame(tolerance), case).value == (distance <= tolerance), (distance, tolerance)


@pytest.mark.parametrize("tolerance", [3, 5, 4.9, 7])
def test_the_tolerance_is_a_disc(case_of, tolerance):
    """An object three rows and four columns off the hottest pixel: five pixels."""
    masks = np.zeros((1, 24, 24), bool)
    masks[0, 3, 4] = True
    patch_map = np.zeros((24, 24))
    patch_map[0, 0] = 1
    found = case_of(patch_map, size=(24, 24), masks=masks)
    assert read(PointingGame(tolerance), found).value == (tolerance >= 5)


def test_ties_are_hits_where_one_is_and_by_their_share_otherwise(case_of):
    """One of the map's three equal patches, each one pixel of the photo, lies on the object."""
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 1, 2] = True
    patch_map = np.zeros((4, 4))
    patch_map[1, 2] = patch_map[3, 3] = patch_map[0, 0] = 5
    patch_map[2, 0] = 4.999  # nearly as hot is not as hot
    found = case_of(patch_map, size=(4, 4), masks=masks)
    assert read(PointingGame(), found).value == 1
    assert read(PointingGame(ties="mean"), found).value == pytest.approx(1 / 3)
    assert read(PointingGame(ties="mean", tolerance_px=1.5), found).value == pytest.approx(1 / 3)
    assert read(PointingGame(ties="mean", tolerance_px=2.5), found).value == pytest.approx(1)


@pytest.mark.parametrize("floor", ["zero", "min"])
def test_energy_pointing_game(case, pixels, floor):
    low = float(case.map.min()) if floor == "min" else 0.0
    inside = sum(max(value - low, 0) for _, _, value, on in pixels if on)
    total = sum(max(value - low, 0) for _, _, value, _ in pixels)
    assert read(EnergyPointingGame(floor), case).value == pytest.approx(inside / total, rel=1e-4)


def slow_average_precision(scores, labels):
    """``sum (R_n - R_n-1) P_n`` over distinct thresholds, in fractions."""
    positives, total, before = sum(labels), Fraction(0), Fraction(0)
    for threshold in sorted(set(scores), reverse=True):
        above = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        recall = Fraction(sum(above), positives)
        total += (recall - before) * Fraction(sum(above), len(above))
        before = recall
    return float(total)


def test_average_precision(case, pixels):
    expected = slow_average_precision([p[2] for p in pixels], [p[3] for p in pixels])
    assert read(PixelAp(), case).value == pytest.approx(expected, abs=1e-4)


def test_average_precision_with_ties(case_of):
    patch_map = np.array([[0, 0, 0, 2], [0, 1, 1, 2], [0, 1, 3, 3], [0, 0, 0, 0]])
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 1:3, 1:4] = True
    masks[0, 0, 0] = True
    got = read(PixelAp(), case_of(patch_map, size=(4, 4), masks=masks)).value
    assert got == pytest.approx(slow_average_precision(patch_map.ravel().tolist(), masks.ravel().tolist()), abs=1e-12)


def slow_iou(pixels, threshold):
    both = sum(on and value > threshold for _, _, value, on in pixels)
    either = sum(on or value > threshold for _, _, value, on in pixels)
    return both / either


def test_intersection_over_union(case, pixels):
    values = [p[2] for p in pixels]
    low, high = min(values), max(values)
    assert read(PixelIou(), case).value == pytest.approx(slow_iou(pixels, sum(values) / len(values)), abs=1e-6)
    for share in (0.0, 0.3, 0.8):
        expected = slow_iou(pixels, low + share * (high - low))
        assert read(PixelIou(share), case).value == pytest.approx(expected, abs=1e-6)


def test_otsu_separates_two_levels_of_heat(case_of):
    """The threshold of least variance within the classes, by trying every value."""
    rng = np.random.default_rng(4)
    patch_map = np.where(rng.random((20, 30)) < 0.3, 3, 1) + 0.4 * rng.random((20, 30))
    masks = rng.random((1, 20, 30)) < 0.4
    values, labels = patch_map.astype(np.float32).ravel().tolist(), masks.ravel().tolist()

    def within(threshold):
        parts = [[v for v in values if (v > threshold) == side] for side in (False, True)]
        return sum(sum((v - sum(part) / len(part)) ** 2 for v in part) for part in parts if part)

    best = min(sorted(values)[:-1], key=within)
    expected = slow_iou([(0, 0, v, on) for v, on in zip(values, labels, strict=True)], best)
    assert read(PixelIou("otsu"), case_of(patch_map, size=(20, 30), masks=masks)).value == pytest.approx(expected)


def slow_peaks(patch_map):
    rows, columns = patch_map.shape
    peaks = []
    for y in range(rows):
        for x in range(columns):
            around = [
                patch_map[v, u]
                for v in range(max(0, y - 1), min(rows, y + 2))
                for u in range(max(0, x - 1), min(columns, x + 2))
            ]
            if patch_map[y, x] > 0 and patch_map[y, x] == max(around):
                peaks.append((y, x))
    return sorted(peaks, key=lambda place: -patch_map[place])


@pytest.mark.parametrize("seed", range(4))
def test_multi_object_hit_rate(case_of, seed):
    rng = np.random.default_rng(seed)
    patch_map, masks = rng.normal(size=(8, 9)), np.zeros((3, 40, 70), bool)
    for mask in masks:
        y, x = rng.integers(4, 25), rng.integers(12, 40)
        mask[y : y + 11, x : x + 14] = True
    points = [
        (int(CROP.y0 + (y + 0.5) * 32 / 8), int(CROP.x0 + (x + 0.5) * 48 / 9)) for y, x in slow_peaks(patch_map)[:3]
    ]
    expected = sum(any(mask[point] for point in points) for mask in masks) / 3
    assert read(MultiObjectHitRate(), case_of(patch_map, crop=CROP, size=(40, 70), masks=masks)).value == expected


def test_two_objects_need_two_peaks(case_of):
    masks = np.zeros((2, 48, 48), bool)
    masks[0, :16, :16], masks[1, 32:, 32:] = True, True
    one, both = np.zeros((6, 6)), np.zeros((6, 6))
    one[0, 0], one[3, 3] = 1, 0.9
    both[0, 0], both[5, 5] = 1, 0.2
    assert read(MultiObjectHitRate(), case_of(one, masks=masks)).value == 0.5
    assert read(MultiObjectHitRate(), case_of(both, masks=masks)).value == 1
    assert read(MultiObjectHitRate(9), case_of(one, masks=masks)).value == 1
    assert read(MultiObjectHitRate(), case_of(-both, masks=masks)).value == 0  # nothing positive, no peak


@pytest.mark.parametrize("level", [0.0, -0.4, 0.7])
def test_a_flat_map_points_nowhere(case_of, level):
    """By the rule of ties it would hit every object."""
    masks = np.zeros((1, 16, 16), bool)
    masks[0, :4] = True
    found = case_of(np.full((2, 2), level), masks=masks)
    assert [read(metric, found).value for metric in ALL] == [0, 0, 0, pytest.approx(0.25), 0]


def test_what_was_cropped_away_can_be_neither_found_nor_missed(case_of):
    patch_map = np.random.default_rng(2).normal(size=(4, 6))
    masks = np.zeros((1, 40, 70), bool)
    masks[0, 8:20, 12:25] = True
    wider = masks.copy()
    wider[0, :, :10] = wider[0, :, 58:] = wider[0, :4] = wider[0, 36:] = True
    near, far = (case_of(patch_map, crop=CROP, size=(40, 70), masks=m) for m in (masks, wider))
    assert [read(metric, near) for metric in ALL] == [read(metric, far) for metric in ALL]
    outside = case_of(patch_map, crop=CROP, size=(40, 70), masks=wider & ~masks)
    for metric in ALL:
        score = read(metric, outside)
        assert score.value is None
        assert "no pixel of the mask" in score.flags[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PointingGame(-1), "tolerance"),
        (lambda: PointingGame("15"), "tolerance"),
        (lambda: PointingGame(ties="first"), "ties"),
        (lambda: EnergyPointingGame("mean"), "floor"),
        (lambda: MultiObjectHitRate(float("nan")), "tolerance"),
        (lambda: PixelIou("median"), "threshold"),
        (lambda: PixelIou(1.0), "threshold"),
    ],
)
def test_options_check_themselves(make, said):
    with pytest.raises(OptionError, match=said):
        make()
