"""Scores of presence and of place, in NumPy: they know nothing of any model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def roc_auc(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """The area under the ROC curve: how often a true case scores above a false one, ties counting half.

    Args:
        scores: [N], any scale.
        truth: bool [N].

    Returns:
        0 to 1, or NaN where there is no true or no false case.
    """
    positive = int(truth.sum())
    negative = truth.size - positive
    if positive == 0 or negative == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]  # tied scores share their mean rank
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


@lru_cache(maxsize=8)
def _weights(size: int, grid: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation from ``grid`` cells to ``size`` pixels, cell centres aligned, [size, grid]."""
    where = np.clip((np.arange(size) + 0.5) * grid / size - 0.5, 0, grid - 1)
    low = np.minimum(where.astype(int), max(grid - 2, 0))
    out = np.zeros((size, grid))
    out[np.arange(size), low] = 1 - (where - low)
    out[np.arange(size), np.minimum(low + 1, grid - 1)] += where - low
    return out


def upsample(heat: Floats, size: int) -> Floats:
    """A patch map [g, g] as pixels [size, size], bilinearly."""
    weights = _weights(size, heat.shape[0])
    out: Floats = weights @ heat @ weights.T
    return out


def points_at(heat: Floats, mask: npt.NDArray[np.bool_]) -> bool:
    """The pointing game: whether the hottest pixel of the upsampled map [g, g] lies in ``mask`` [H, H]."""
    pixels = upsample(heat, mask.shape[0])
    return bool(mask.flat[int(np.argmax(pixels))])


def mean_by_class(values: Floats, classes: npt.NDArray[np.integer], count: int) -> float:
    """The mean over classes 0 to ``count`` - 1 of each class's mean value; classes without a value are left out."""
    means = [values[classes == k].mean() for k in range(count) if (classes == k).any()]
    return float(np.mean(means))
