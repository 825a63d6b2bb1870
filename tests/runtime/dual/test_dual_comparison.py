"""Comparisons and shapes of maps against slow loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eyeshine.dual.comparison import Shape, compare, regions, shape_of

RANDOM = np.random.default_rng(3)
GRIDS = [(14, 14), (7, 9), (4, 6)]


def pair(grid):
    first = RANDOM.random(grid, dtype=np.float32)
    return first, (0.5 * first + RANDOM.random(grid, dtype=np.float32)).astype(np.float32)


def slow_pearson(a, b):
    x, y = [float(v) for v in a.ravel()], [float(v) for v in b.ravel()]
    mx, my = math.fsum(x) / len(x), math.fsum(y) / len(y)
    top = math.fsum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    return top / math.sqrt(math.fsum((p - mx) ** 2 for p in x) * math.fsum((q - my) ** 2 for q in y))


def slow_ssim(a, b, window=7):
    """Wang et al. 2004, equation 13, uniform windows, K1 .01, K2 .03, range 1."""
    a, b = ((x.astype(np.float64) - x.min()) / (float(x.max()) - float(x.min())) for x in (a, b))
    size = min(window, *a.shape)
    values = []
    for y in range(a.shape[0] - size + 1):
        for x in range(a.shape[1] - size + 1):
            p, q = a[y : y + size, x : x + size].ravel(), b[y : y + size, x : x + size].ravel()
            covariance = np.cov(p, q)
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
            values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)))
    return sum(values) / len(values)


@pytest.mark.parametrize("grid", GRIDS)
def test_measures_by_slow_loops(grid):
    a, b = pair(grid)
    got = compare(a, b, 0.6)
    hot_a = {(y, x) for y, x in np.ndindex(grid) if a[y, x] >= 0.6 * a.max()}
    hot_b = {(y, x) for y, x in np.ndindex(grid) if b[y, x] >= 0.6 * b.max()}
    top = math.fsum(float(p) * float(q) for p, q in zip(a.ravel(), b.ravel(), strict=True))
    norms = math.sqrt(math.fsum(float(p) ** 2 for p in a.ravel()) * math.fsum(float(q) ** 2 for q in b.ravel()))
    assert got.iou == pytest.approx(len(hot_a & hot_b) / len(hot_a | hot_b), abs=1e-12)
    assert got.cosine == pytest.approx(top / norms, rel=1e-6)
    assert got.pearson == pytest.approx(slow_pearson(a, b), rel=1e-6)
    assert got.ssim == pytest.approx(slow_ssim(a, b), rel=1e-6)


def test_a_map_is_like_itself_and_a_scaled_one_too():
    a, _ = pair((14, 14))
    got = compare(a, 3 * a, 0.4)
    assert (got.cosine, got.pearson, got.ssim, got.iou) == pytest.approx((1, 1, 1, 1), abs=1e-5)


def test_a_map_without_contrast_is_like_nothing():
    a, _ = pair((5, 5))
    for flat in (np.zeros((5, 5), np.float32), np.full((5, 5), 0.3, np.float32)):
        got = compare(a, flat, 0.4)
        assert (got.cosine, got.pearson, got.ssim, got.iou) == (None, None, None, None)


def slow_regions(hot):
    """Flood fill from every patch, neighbours over corners included."""
    found, seen = [], set()
    for start in zip(*np.nonzero(hot), strict=True):
        if start in seen:
            continue
        stack, region = [start], set()
        while stack:
            y, x = stack.pop()
            if (y, x) in region or not (0 <= y < hot.shape[0] and 0 <= x < hot.shape[1]) or not hot[y, x]:
                continue
            region.add((y, x))
            stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        seen |= region
        found.append(region)
    return found


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4, 0.7, 1.0])
def test_regions_by_flood_fill(share):
    hot = RANDOM.random((14, 11)) < share
    labels = regions(hot)
    got = {frozenset(zip(*np.nonzero(labels == k), strict=True)) for k in range(1, labels.max() + 1)}
    assert got == {frozenset(region) for region in slow_regions(hot)}
    assert ((labels > 0) == hot).all()


def test_the_shape_by_flood_fill():
    values = RANDOM.random((14, 14), dtype=np.float32) ** 3
    hot = values >= 0.4 * values.max()
    energies = sorted((math.fsum(float(values[p]) for p in region) for region in slow_regions(hot)), reverse=True)
    total = math.fsum(float(v) for v in values.ravel())
    got = shape_of(values, 0.4)
    expected = (sum(energies) / total, energies[0] / total, energies[1] / energies[0])
    assert (got.focus, got.largest, got.second) == pytest.approx(expected, rel=1e-6)


def test_shapes_that_are_known():
    spot = np.zeros((6, 6), np.float32)
    assert shape_of(spot, 0.4) == Shape(0.0, 0.0, 0.0)
    spot[1, 1] = 1
    assert (shape_of(spot, 0.4).focus, shape_of(spot, 0.4).largest, shape_of(spot, 0.4).second) == (1, 1, 0)
    spot[2, 2] = 1  # over a corner: still one region
    assert shape_of(spot, 0.4).second == 0
    spot[5, 5] = 0.5
    shape = shape_of(spot, 0.4)
    assert (shape.focus, shape.largest, shape.second) == pytest.approx((1, 0.8, 0.25))
