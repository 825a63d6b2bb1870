"""Preparation equals open_clip's own transform bit for bit, and the crop box is where it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from eyeshine.errors import ImageError, OptionError
from eyeshine.preprocess import CropBox, Preprocess
from eyeshine_export.compat import import_open_clip

import_open_clip()


def open_clips(image: np.ndarray, settings: Preprocess) -> np.ndarray:
    from open_clip.transform import image_transform
    from torchvision.transforms import Normalize

    transform = image_transform(
        settings.size, is_train=False, resize_mode=settings.resize, interpolation=settings.interpolation
    )
    assert isinstance(transform.transforms.pop(), Normalize)
    return transform(Image.fromarray(image)).numpy()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 7919 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


SIDE = st.integers(1, 500)
TARGET = st.sampled_from([(224, 224), (32, 32), (7, 7), (1, 1), (48, 64), (64, 48), (31, 97), (1, 40), (336, 336)])


@settings(max_examples=150, deadline=None)
@given(SIDE, SIDE, TARGET, st.sampled_from(["shortest", "squash"]), st.sampled_from(["bicubic", "bilinear"]))
@example(1, 500, (32, 32), "shortest", "bicubic")
@example(500, 1, (32, 32), "shortest", "bicubic")
@example(3, 400, (31, 97), "shortest", "bicubic")
@example(480, 640, (224, 224), "shortest", "bicubic")
@example(224, 224, (224, 224), "shortest", "bicubic")
@example(224, 301, (224, 224), "shortest", "bicubic")
@example(10, 10, (224, 224), "squash", "bilinear")
def test_equals_open_clip(height, width, size, resize, interpolation):
    image, preprocess = noise(height, width), Preprocess(size, resize, interpolation)
    prepared = preprocess.prepare(image)
    assert prepared.pixels.dtype == np.float32
    assert prepared.pixels.flags.c_contiguous
    assert prepared.pixels.shape == (3, *size)
    np.testing.assert_array_equal(prepared.pixels, open_clips(image, preprocess))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_resized_size_follows_open_clip_and_never_needs_padding(height, width, size):
    from open_clip.transform import ResizeKeepRatio
    from torchvision.transforms.functional import _compute_resized_output_size

    rows, columns = Preprocess(size)._resized(height, width)
    assert rows >= size[0]
    assert columns >= size[1]
    if size[0] == size[1]:
        assert [rows, columns] == _compute_resized_output_size((height, width), [size[0]])
    else:
        image = type("Sized", (), {"size": (width, height)})
        assert [rows, columns] == ResizeKeepRatio.get_params(image, size, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), TARGET, st.sampled_from(["shortest", "squash"]))
def test_crop_box_lies_in_the_image(height, width, size, resize):
    crop = Preprocess(size, resize).prepare(noise(height, width)).crop
    assert (crop.height, crop.width) == (height, width)
    if resize == "squash":
        assert crop == CropBox.whole(height, width)
    else:  # centred up to one resized pixel, and as elongated as the input up to rounding
        pixel = max((crop.y1 - crop.y0) / size[0], (crop.x1 - crop.x0) / size[1])
        assert abs(crop.y0 - (height - crop.y1)) <= pixel * 1.001
        assert abs(crop.x0 - (width - crop.x1)) <= pixel * 1.001


@pytest.mark.parametrize(
    ("height", "width", "size"), [(480, 640, (224, 224)), (640, 480, (224, 224)), (300, 900, (64, 128))]
)
def test_crop_box_is_where_the_pixels_come_from(height, width, size):
    """On an image whose red grows along x and green along y, the prepared edges show the box's edges."""
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = np.stack([columns * 255 / width, rows * 255 / height, 0 * rows], axis=2).astype(np.uint8)
    prepared = Preprocess(size).prepare(ramp)
    crop, (red, green, _) = prepared.crop, prepared.pixels
    for value, length, low, high in ((red[0], width, crop.x0, crop.x1), (green[:, 0], height, crop.y0, crop.y1)):
        step = (high - low) / len(value)
        assert value[len(value) // 4] * length == pytest.approx(low + (len(value) // 4 + 0.5) * step, abs=length / 100)
        assert value[-9] * length == pytest.approx(high - 8.5 * step, abs=length / 100)


def test_the_image_is_not_changed():
    image = noise(50, 60)
    before = image.copy()
    Preprocess((50, 50)).prepare(image)
    Preprocess((50, 60)).prepare(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)),
                                   np.zeros((0, 4, 3), np.uint8)])  # fmt: skip
def test_only_rgb_is_prepared(image):
    with pytest.raises(ImageError, match=r"uint8 \[H,W,3\]"):
        Preprocess((8, 8)).prepare(image)


def test_too_elongated_an_image_is_refused_instead_of_filling_the_memory():
    with pytest.raises(ImageError, match=r"elongated; got 20000x1; cure"):
        Preprocess((224, 224)).prepare(np.zeros((1, 20000, 3), np.uint8))
    assert Preprocess((224, 224), "squash").prepare(np.zeros((1, 20000, 3), np.uint8)).pixels.shape == (3, 224, 224)


def test_manifest_round_trip():
    for preprocess in (Preprocess((224, 224)), Preprocess((32, 48), "squash", "bilinear")):
        assert Preprocess.from_manifest(json.loads(json.dumps(preprocess.as_manifest()))) == preprocess


@pytest.mark.parametrize("change", [{"size": 224}, {"size": [0, 5]}, {"size": [5]}, {"size": [5.0, 5.0]},
                                    {"size": None}, {"size": [True, 5]}, {"resize": "longest"},
                                    {"interpolation": "nearest"}, {"extra": 1}])  # fmt: skip
def test_manifest_is_checked(change):
    with pytest.raises(OptionError, match="allowed"):
        Preprocess.from_manifest(Preprocess((224, 224)).as_manifest() | change)


def test_manifest_misses_nothing():
    with pytest.raises(OptionError, match="exactly"):
        Preprocess.from_manifest({"size": [8, 8]})


@pytest.mark.parametrize("edges", [(-1, 5, 0, 5), (0, 11, 0, 5), (5, 5, 0, 5), (0, 5, 3, 2), (0, 5, 0, 21),
                                   (float("nan"), 5, 0, 5)])  # fmt: skip
def test_crop_box_checks_itself(edges):
    with pytest.raises(OptionError, match="within 10x20"):
        CropBox(*edges, height=10, width=20)
