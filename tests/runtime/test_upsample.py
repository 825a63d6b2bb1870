"""Up-sampling equals a slow loop and torch's bilinear interpolation; normalised maps stay in 0..1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eyeshine.errors import OptionError
from eyeshine.preprocess import CropBox, Preprocess
from eyeshine.upsample import normalize_maps, to_image


def slowly(grid: np.ndarray, crop: CropBox, size: tuple[int, int]) -> np.ndarray:
    """One pixel at a time, straight from the definition."""
    gh, gw = grid.shape
    result = np.zeros(size)
    for i in range(size[0]):
        y = (i + 0.5) * crop.height / size[0]
        for j in range(size[1]):
            x = (j + 0.5) * crop.width / size[1]
            if not (crop.y0 - 1e-6 <= y <= crop.y1 + 1e-6 and crop.x0 - 1e-6 <= x <= crop.x1 + 1e-6):
                continue
            v = min(max((y - crop.y0) / (crop.y1 - crop.y0) * gh - 0.5, 0), gh - 1)
            u = min(max((x - crop.x0) / (crop.x1 - crop.x0) * gw - 0.5, 0), gw - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, gh - 1), min(left + 1, gw - 1)
            upper = grid[top, left] * (1 - (u - left)) + grid[top, right] * (u - left)
            lower = grid[bottom, left] * (1 - (u - left)) + grid[bottom, right] * (u - left)
            result[i, j] = upper * (1 - (v - top)) + lower * (v - top)
    return result


def random_maps(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@st.composite
def crops(draw) -> CropBox:
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    edge = st.floats(0, 1, width=32)
    (y0, y1), (x0, x1) = (sorted(draw(st.tuples(edge, edge).filter(lambda p: abs(p[0] - p[1]) > 0.05))) for _ in "yx")
    return CropBox(y0 * height, y1 * height, x0 * width, x1 * width, height, width)


@settings(max_examples=80, deadline=None)
@example(CropBox(0.0, 13.5, 0.0, 1.0, 27, 1), 1, 1, (21, 1))  # a centre exactly on the edge
@given(crops(), st.integers(1, 9), st.integers(1, 9), st.none() | st.tuples(st.integers(1, 25), st.integers(1, 25)))
def test_equals_the_slow_loop(crop, gh, gw, size):
    grid = random_maps(gh, gw)
    got = to_image(grid, crop, size)
    expected = slowly(grid, crop, size or (crop.height, crop.width))
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert (got[expected == 0] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 80), st.integers(1, 80))
def test_equals_torch_on_a_whole_image(gh, gw, height, width):
    maps = random_maps(2, 3, gh, gw)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps).double(), (height, width), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(to_image(maps, CropBox.whole(height, width)), expected.numpy(), atol=5e-6)


def test_outside_the_crop_is_exactly_zero():
    crop = Preprocess((224, 224)).prepare(np.zeros((480, 640, 3), np.uint8)).crop
    heat = to_image(np.ones((1, 14, 14), np.float32), crop)[0]
    assert heat.shape == (480, 640)
    assert (heat[:, :79] == 0).all()
    assert (heat[:, 561:] == 0).all()
    np.testing.assert_allclose(heat[:, 80:560], 1.0, atol=1e-6)


def test_hottest_pixel_lies_in_the_hottest_patch():
    grid = np.zeros((14, 14), np.float32)
    grid[3, 10] = 1.0
    heat = to_image(grid, CropBox(0, 480, 80, 560, 480, 640))
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 3 * 480 / 14 <= row < 4 * 480 / 14
    assert 80 + 10 * 480 / 14 <= column < 80 + 11 * 480 / 14


def test_leading_axes_and_a_single_map():
    crop = CropBox(1, 9, 2, 15, 10, 17)
    maps = random_maps(2, 3, 4, 5)
    together = to_image(maps, crop)
    assert together.shape == (2, 3, 10, 17)
    np.testing.assert_allclose(together[1, 2], to_image(maps[1, 2], crop), atol=1e-6)
    assert to_image(maps[:, :0], crop).shape == (2, 0, 10, 17)


def test_non_contiguous_maps():
    maps = random_maps(5, 6, 3)
    crop = CropBox.whole(20, 30)
    view = maps.transpose(2, 0, 1)
    np.testing.assert_array_equal(to_image(view, crop), to_image(view.copy(), crop))


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 0)])
def test_maps_need_a_grid(shape):
    with pytest.raises(OptionError, match="gh, gw"):
        to_image(np.zeros(shape, np.float32), CropBox.whole(4, 4))


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_size_is_checked(size):
    with pytest.raises(OptionError, match="image size"):
        to_image(np.zeros((2, 2), np.float32), CropBox.whole(4, 4), size)


FLOATS = st.floats(-1e6, 1e6, width=32)
MAPS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)), elements=FLOATS)


@settings(max_examples=150, deadline=None)
@given(MAPS, st.sampled_from(["each", "shared"]))
def test_normalised_maps_stay_in_range(maps, scale):
    before = maps.copy()
    got = normalize_maps(maps, scale)
    assert got.dtype == np.float32
    assert got.shape == maps.shape
    assert ((got >= 0) & (got <= 1)).all()
    np.testing.assert_array_equal(maps, before)
    for one, scaled in zip(maps, got, strict=True):
        if scale == "each":
            assert (scaled.min(), scaled.max()) == (0, float(one.max() > one.min()))
        order = np.argsort(one, axis=None)
        assert (np.diff(scaled.ravel()[order]) >= 0).all()
    if scale == "shared":
        assert got.max() == float(maps.max() > 0)
        assert (got[maps <= 0] == 0).all()


def test_shared_scale_keeps_maps_comparable_and_each_does_not():
    maps = np.array([[[0.0, 4.0], [-8.0, 2.0]], [[1.0, 1.0], [0.0, 0.5]]], np.float32)
    shared = [[[0, 1], [0, 0.5]], [[0.25, 0.25], [0, 0.125]]]
    np.testing.assert_array_equal(normalize_maps(maps, "shared"), np.array(shared, np.float32))
    each = [[[8 / 12, 1], [0, 10 / 12]], [[1, 1], [0, 0.5]]]
    np.testing.assert_allclose(normalize_maps(maps, "each"), np.array(each), rtol=1e-6)


@pytest.mark.parametrize("scale", ["each", "shared"])
def test_maps_without_contrast_or_without_texts(scale):
    assert (normalize_maps(np.zeros((2, 3, 3), np.float32), scale) == 0).all()
    assert (normalize_maps(np.full((2, 3, 3), -5.0, np.float32), scale) == 0).all()
    assert normalize_maps(np.zeros((0, 3, 3), np.float32), scale).shape == (0, 3, 3)
    tiny = np.array([[[0.0, 1e-45]]], np.float32)
    np.testing.assert_array_equal(normalize_maps(tiny, scale), [[[0, 1]]])


def test_scale_and_shape_are_checked():
    with pytest.raises(OptionError, match="each, shared"):
        normalize_maps(np.zeros((1, 2, 2), np.float32), "per-image")
    with pytest.raises(OptionError, match="P, gh, gw"):
        normalize_maps(np.zeros((2, 2), np.float32))
