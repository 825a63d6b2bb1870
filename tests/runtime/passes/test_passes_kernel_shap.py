"""Kernel SHAP against Shapley's own formula, over all coalitions, of open_clip's own model."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import factorial

import numpy as np
import pytest

from eyeshine.errors import OptionError
from eyeshine.methods.kernel_shap import KernelShap, coalitions, solve, superpatches
from oracle import relative

TEXTS = ["a red car", "the dog", "a tree"]
SQUARE = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 3]])  # squares of 3 on 4 x 4 patches


def shapley(worth, count):
    """``sum_S |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))``; ``worth`` by the frozenset of features."""
    values = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        total = 0.0
        for size in range(count):
            for chosen in map(frozenset, combinations(others, size)):
                share = factorial(size) * factorial(count - size - 1) / factorial(count)
                total = total + share * (worth[chosen | {i}] - worth[chosen])
        values.append(total)
    return np.array(values)


def worths(ask, image, other, square):
    """What every set of squares is worth, [P] each, with frames made patch by patch."""
    count = square.max() + 1
    sets = [frozenset(chosen) for size in range(count + 1) for chosen in combinations(range(count), size)]
    frames = []
    for chosen in sets:
        frame = other.copy()
        for (row, column), feature in np.ndenumerate(square):
            if feature in chosen:
                place = (slice(None), slice(row * 8, row * 8 + 8), slice(column * 8, column * 8 + 8))
                frame[place] = image[place]
        frames.append(frame)
    return dict(zip(sets, ask(frames), strict=True))


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_with_all_coalitions_values_are_shapleys(tiny, photo, ask, pixels, mean, fill):
    other = np.broadcast_to(mean if fill == "mean" else 0.0, (3, 32, 32)).copy()
    values = shapley(worths(ask, pixels(), other, SQUARE), 4)  # [4, P]
    got = tiny.explain(photo(), TEXTS, method=KernelShap(side=3, fill=fill)).maps[0]
    for feature in range(4):
        place = feature == SQUARE
        assert np.ptp(got[:, place], axis=1).max() == 0  # a square's patches share its value
        assert relative(got[:, place].sum(axis=1), values[feature]) <= 1e-4


def three_by_three():
    """A random game of nine players with effects of every order, its table and its Shapley values."""
    rng = np.random.default_rng(7)
    single, pairs = rng.standard_normal(9), rng.standard_normal((9, 9))

    def worth(z):
        z = np.asarray(z, float)
        return z @ single + 0.5 * z @ pairs @ z + np.tanh(z.sum() - 4) * z[0]

    table = {
        frozenset(chosen): worth([i in chosen for i in range(9)])
        for size in range(10)
        for chosen in combinations(range(9), size)
    }
    return worth, table, shapley(table, 9)


def solved(options, worth):
    chosen, weights = coalitions(9, options)
    scores = np.array([[worth(z)] for z in chosen])
    ends = [np.array([worth(np.full(9, end))]) for end in (0, 1)]
    return solve(chosen, weights, scores, *ends)[0], (chosen, weights, scores, ends)


def test_nine_squares_with_all_their_coalitions_are_exact():
    worth, _, expected = three_by_three()
    got, (chosen, *_) = solved(KernelShap(samples=510), worth)
    assert len(chosen) == len(np.unique(chosen, axis=0)) == 510
    assert relative(got, expected) <= 1e-11


def test_sampled_values_converge_to_shapleys_and_pairs_lessen_the_noise():
    worth, _, expected = three_by_three()

    def error(samples, paired):
        found = [solved(KernelShap(samples=samples, paired=paired, seed=seed), worth)[0] for seed in range(40)]
        return np.sqrt(np.mean((np.array(found) - expected) ** 2)) / np.abs(expected).max()

    few, many, single = error(100, True), error(400, True), error(400, False)
    assert many < 0.03
    assert few / many == pytest.approx(2, rel=0.25)  # four times the samples, half the error
    assert many < 0.6 * single


@pytest.mark.parametrize("paired", [True, False])
def test_the_solution_is_that_of_the_constrained_least_squares(paired):
    worth, _, _ = three_by_three()
    got, (z, weights, scores, (none, everything)) = solved(KernelShap(samples=60, paired=paired, seed=2), worth)
    # Lagrange: [2 Z'WZ  1; 1' 0] [phi; m] = [2 Z'Wv; v(1) - v(0)]
    gram = (z.T * weights) @ z.astype(float)
    system = np.block([[2 * gram, np.ones((9, 1))], [np.ones((1, 9)), np.zeros((1, 1))]])
    right = np.append(2 * (z.T * weights) @ (scores[:, 0] - none), everything - none)
    assert relative(got, np.linalg.solve(system, right)[:9]) <= 1e-9
    assert got.sum() == pytest.approx((everything - none)[0], abs=1e-12)


def test_sizes_are_drawn_by_the_kernel_members_evenly_and_pairs_are_complements():
    chosen, weights = coalitions(12, KernelShap(samples=3000, seed=4))
    assert (weights == 1).all()
    assert (chosen[::2] ^ chosen[1::2]).all()
    single = coalitions(12, KernelShap(samples=3000, paired=False, seed=4))[0]
    odds = np.array([11 / (k * (12 - k)) for k in range(1, 12)])
    found = Counter(single.sum(axis=1).tolist())
    for k, share in enumerate(odds / odds.sum(), 1):
        assert found[k] / 3000 == pytest.approx(share, abs=5 * (share * (1 - share) / 3000) ** 0.5)
    assert single.mean(axis=0) == pytest.approx(0.5, abs=0.05)


def test_squares_of_patches_are_cut_off_at_the_edges():
    assert (superpatches((4, 4), 3) == SQUARE).all()
    assert superpatches((3, 5), 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_a_map_sums_up_to_what_the_image_has_over_the_empty_one(oblong, photo):
    """Rows of pixels that belong to no patch play no part."""
    result = oblong.explain(photo(), TEXTS, method=KernelShap(samples=40))
    empty = np.empty((3, 31, 40), np.float32)
    empty[:] = np.array(oblong.bundle.manifest.model.mean)[:, None, None]
    bare = next(oblong.encoder().stream([empty])) @ oblong.encode_texts(TEXTS).T
    assert result.maps.shape == (1, 3, 3, 5)
    assert relative(result.maps.sum(axis=(2, 3)), result.similarities - bare) <= 1e-4


def test_too_few_samples_are_refused(tiny, photo):
    with pytest.raises(OptionError, match=r"samples=20 for 16.*30 and more.*larger side"):
        tiny.explain(photo(), TEXTS, method=KernelShap(samples=20))
    with pytest.raises(OptionError, match="two squares"):
        tiny.explain(photo(), TEXTS, method=KernelShap(side=4))


@pytest.mark.parametrize("settings", [{"samples": 1}, {"side": 0}, {"fill": "random"}, {"paired": 1}, {"seed": 0.5}])
def test_settings_check_themselves(settings):
    with pytest.raises(OptionError, match=next(iter(settings))):
        KernelShap(**settings)
