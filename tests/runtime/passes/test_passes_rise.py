"""RISE against masks pixel by pixel and open_clip's own model, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from eyeshine.errors import OptionError
from eyeshine.methods.rise import Rise, draw_masks, enlarge
from oracle import relative

TEXTS = ["a red car", "the dog", "a tree"]


def slow_mask(grid, shift, size):
    """SciPy's order-1 spline, mirrored at the centres of the outermost cells, cut out at ``shift``."""
    cells = len(grid)
    sides = [-(-length // cells) for length in size]
    places = [
        (np.arange(start, start + length) + 0.5) * cells / ((cells + 1) * side) - 0.5
        for start, length, side in zip(shift, size, sides, strict=True)
    ]
    return ndimage.map_coordinates(grid.astype(np.float64), np.meshgrid(*places, indexing="ij"), order=1, mode="mirror")


@pytest.mark.parametrize(("size", "cells"), [((32, 32), 3), ((31, 40), 4), ((224, 224), 8), ((9, 17), 1)])
def test_masks_are_grids_enlarged_bilinearly_and_cut_out(size, cells):
    options = Rise(masks=9, cells=cells, seed=5)
    grids, shifts = draw_masks(options, size)
    down, across = (enlarge(length, cells) for length in size)
    assert down.shape == (-(-size[0] // cells), size[0], cells)
    for grid, (y, x) in zip(grids, shifts, strict=True):
        assert np.abs(down[y] @ grid @ across[x].T - slow_mask(grid, (y, x), size)).max() <= 1e-5


def test_grids_are_ones_with_the_probability_and_shifts_reach_everywhere():
    grids, shifts = draw_masks(Rise(masks=4000, cells=4, probability=0.3), (32, 48))
    assert set(np.unique(grids)) == {0, 1}
    assert grids.mean(axis=0) == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 4000) ** 0.5)
    assert [set(column) for column in shifts.T] == [set(range(8)), set(range(12))]


@pytest.mark.parametrize("centred", [True, False])
def test_the_map_is_the_mean_over_patches_of_masks_weighed_by_scores(tiny, photo, ask, pixels, mean, centred):
    method = Rise(masks=20, cells=3, probability=0.4, centred=centred, seed=3)
    masks = [slow_mask(grid, shift, (32, 32)) for grid, shift in zip(*draw_masks(method, (32, 32)), strict=True)]
    scores = ask([mask * (pixels() - mean) + mean for mask in masks])
    if centred:
        scores -= scores.mean(axis=0)
    expected = np.zeros((3, 4, 4))
    for p in range(3):
        for y in range(32):
            for x in range(32):
                total = sum(score[p] * mask[y, x] for score, mask in zip(scores, masks, strict=True))
                expected[p, y // 8, x // 8] += total / (20 * 0.4) / 64
    got = tiny.explain(photo(), TEXTS, method=method, max_batch=7)
    assert relative(got.maps[0], expected) <= 1e-4


def test_centred_maps_of_two_seeds_agree_better(tiny, photo):
    def agreement(centred):
        maps = [
            tiny.explain(photo(), TEXTS, method=Rise(masks=300, cells=4, centred=centred, seed=seed)).maps.reshape(
                3, -1
            )
            for seed in (1, 2)
        ]
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*maps, strict=True)])

    assert agreement(True) > agreement(False) + 0.1


@pytest.mark.parametrize(
    "settings", [{"masks": 0}, {"masks": True}, {"cells": 65}, {"probability": 1}, {"seed": -1}, {"centred": 1}]
)
def test_settings_check_themselves(settings):
    with pytest.raises(OptionError, match=next(iter(settings))):
        Rise(**settings)
