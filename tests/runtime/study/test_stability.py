"""How alike two maps are, and what noise on the image does to them."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine.datasets import Roads
from eyeshine.errors import OptionError
from eyeshine.methods import METHODS
from eyeshine.study.sanity import Stability, Subjects, add_noise, sign_agreement, spearman, ssim, summarise, top_overlap


def pair(seed, shape=(9, 11)):
    """Two maps that have something in common."""
    random = np.random.default_rng(seed)
    first = random.standard_normal(shape)
    return first.astype(np.float32), (first + random.standard_normal(shape)).astype(np.float32)


def slow_ssim(first, second, side):
    """Window by window, by the sums of the definition."""
    x, y = ((m.astype(np.float64) - m.min()) / (float(m.max()) - float(m.min())) for m in (first, second))
    found = []
    for row in range(x.shape[0] - side + 1):
        for column in range(x.shape[1] - side + 1):
            a, b = (m[row : row + side, column : column + side].ravel() for m in (x, y))
            covariance = np.cov(a, b)  # of a sample
            above = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
            below = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)
            found.append(above / below)
    return np.mean(found)


@pytest.mark.parametrize("seed", range(3))
def test_spearman_is_scipys(seed):
    stats = pytest.importorskip("scipy.stats")
    first, second = (np.round(each, 1) for each in pair(seed))  # with ties
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first.ravel(), second.ravel())[0], abs=1e-12)


@pytest.mark.parametrize(("shape", "side"), [((9, 11), 7), ((14, 14), 7), ((6, 8), 5), ((4, 4), 3), ((3, 20), 3)])
def test_ssim_is_that_of_the_definition(shape, side):
    first, second = pair(1, shape)
    assert ssim(first, second) == pytest.approx(slow_ssim(first, second, side), abs=1e-12)
    assert ssim(first, first) == pytest.approx(1, abs=1e-12)
    assert ssim(first, 3 * first + 2) == pytest.approx(1, abs=1e-6)  # each is scaled by its own range
    assert ssim(first, -first) < 0


def test_the_top_in_common_is_what_sorting_finds():
    for seed in range(5):
        first, second = pair(seed)
        tops = [set(np.argsort(-each.ravel())[:10].tolist()) for each in (first, second)]
        assert top_overlap(first, second, 0.1) == pytest.approx(len(tops[0] & tops[1]) / 10)
    assert top_overlap(first, first) == 1
    assert top_overlap(first, -first) == 0


def test_equally_hot_patches_share_the_places_that_are_left():
    first = np.zeros((4, 5))
    first[0, 0] = 1  # one hot patch, and one place for the nineteen others
    second = np.zeros((4, 5))
    second[0, 0] = second[0, 1] = 1
    assert top_overlap(first, second, 0.1) == pytest.approx((1 + 1 / 19) / 2)
    assert top_overlap(first, first, 0.1) == pytest.approx(1)


def test_signs_agree_where_both_have_one():
    first, second = np.array([[1.0, -2.0, 3.0], [-1.0, 0.0, 2.0]]), np.array([[2.0, 1.0, 3.0], [-4.0, 5.0, 0.0]])
    assert sign_agreement(first, second) == 3 / 4
    assert sign_agreement(first, -first) == 0
    assert sign_agreement(first, np.abs(second)) is None


def test_flat_maps_are_like_nothing():
    first, flat = pair(0)[0], np.full((9, 11), 0.5, np.float32)
    assert [measure(first, flat) for measure in (spearman, ssim, top_overlap)] == [None] * 3
    assert ssim(first[:1], first[1:2]) is None  # a row of patches has no windows
    with pytest.raises(OptionError, match=r"one shape"):
        spearman(first, first[:5])


def test_more_noise_moves_maps_further(tiny):
    subjects = Subjects(
        dataset=Roads(2, size=32), methods={name: METHODS[name] for name in ("grad_eclip", "attention")}, limit=2
    )
    rows = list(add_noise(tiny, subjects, Stability(sigmas=(0.4, 20.0, 200.0), seeds=(0, 1))))
    assert len(rows) == 2 * 2 * 3 * 2
    means = summarise(rows, ("method", "sigma"), "spearman")
    for name in ("grad_eclip", "attention"):
        values = [means[name, sigma].value for sigma in (0.4, 20.0, 200.0)]
        assert values == sorted(values, reverse=True)
        assert values[0] > 0.99
        assert values[2] < 0.9
    changes = [abs(row["similarity_change"]) for row in rows if row["sigma"] == 0.4]
    assert max(changes) < min(abs(row["similarity_change"]) for row in rows if row["sigma"] == 200.0)


def test_noise_is_of_the_size_that_was_asked_for(tiny, monkeypatch):
    seen = []
    original = Subjects.maps

    def spy(self, explainer, of):
        seen.append(of.image)
        return original(self, explainer, of)

    monkeypatch.setattr(Subjects, "maps", spy)
    subjects = Subjects(dataset=Roads(1, size=64), methods={"attention": METHODS["attention"]}, limit=1)
    list(add_noise(tiny, subjects, Stability(sigmas=(4.0,), seeds=(0, 1))))
    clean, *noisy = (image.astype(np.float64) for image in seen)
    assert clean.shape == (32, 32, 3)  # what the model takes
    inner = (clean > 20) & (clean < 235)  # where nothing is cut off
    for image in noisy:
        # 4 levels and the rounding to whole ones; about 2,000 values have a standard deviation within 8 %.
        assert (image - clean)[inner].std() == pytest.approx(np.sqrt(16 + 1 / 12), rel=0.08)
    assert not (noisy[0] == noisy[1]).all()


def test_noise_that_is_none_is_refused():
    for sigmas in ((), (0.0,), (300.0,), (2.0, 2.0)):
        with pytest.raises(OptionError, match=r"noise in levels"):
            Stability(sigmas=sigmas)
    with pytest.raises(OptionError, match=r"share"):
        Stability(share=1.0)
