"""Models, cases and slow loops that tests of metrics share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from eyeshine.metrics.case import Case
from eyeshine.preprocess import CropBox, Preprocess


@pytest.fixture(scope="session")
def case_of():
    """Build a case around a map; the photo is the model's input, size 8 pixels per patch, unless it is given."""

    def build(patch_map, *, crop=None, size=None, seed=0, **given):
        patch_map = np.asarray(patch_map, np.float32)
        rows, columns = patch_map.shape
        inner = (rows * 8, columns * 8)
        size = size or inner
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        pixels = rng.random((3, *inner), dtype=np.float32)
        defaults = {"mean": np.array([0.4, 0.5, 0.6], np.float32), "logit_scale": 100.0, "text": np.eye(4)[0]}
        return Case(
            photo=image, crop=crop or CropBox.whole(*size), pixels=pixels, box=CropBox.whole(*inner), map=patch_map,
            preprocess=Preprocess(inner), **{**defaults, **given},
        )  # fmt: skip

    return build


def slow_heat(patch_map, patch, height, width):
    """The soft mask by loops in float64: min-max over the patches, bilinear between centres, 0 where no patch lies."""
    low, high = float(patch_map.min()), float(patch_map.max())
    rows, columns = patch_map.shape
    heat = np.zeros((height, width))
    for y in range(rows * patch):
        for x in range(columns * patch):
            v = min(max((y + 0.5) / patch - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) / patch - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = v - top, u - left
            value = (1 - a) * ((1 - b) * patch_map[top, left] + b * patch_map[top, right])
            value += a * ((1 - b) * patch_map[below, left] + b * patch_map[below, right])
            heat[y, x] = (value - low) / (high - low)
    return heat


def slow_cosine(explainer, image, text):
    """The cosine of one image [3, Y, X], encoded alone, and one text."""
    run = explainer._session("encode").run({"pixels": image[None].astype(np.float32)}, ["embedding"])
    a, b = run.outputs["embedding"][0], explainer.encode_texts([text])[0]
    return sum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def slow_masked(explainer, photo, share, fill):
    """An image times a mask, by loops: normalised, multiplied, and back (fill "mean"); or multiplied as it is."""
    x = explainer.preprocess.prepare(photo).pixels.astype(np.float64)
    mean, std = explainer.bundle.manifest.model.mean, explainer.bundle.manifest.model.std
    result = np.empty_like(x)
    for c in range(3):
        normalised = (x[c] - mean[c]) / std[c] if fill == "mean" else x[c]
        product = normalised * share
        result[c] = product * std[c] + mean[c] if fill == "mean" else product
    return result


@pytest.fixture(scope="session")
def slow():
    return SimpleNamespace(heat=slow_heat, cosine=slow_cosine, masked=slow_masked)
