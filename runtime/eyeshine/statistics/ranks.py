"""Spearman's rank correlation, in NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank_correlation"]


def rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Spearman's rho of two arrays of one size, -1..1: the correlation of ranks, ties at the mean of theirs.

    NaN where one of them is constant: it ranks nothing.
    """
    ranks = [_ranks(np.asarray(values, np.float64).reshape(-1)) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    # Sums, not BLAS: a dot of more than 10,000 wakes its threads (see eyeshine_kernels.products).
    lengths = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / lengths if lengths else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends: NDArray[np.float64] = np.cumsum(counts).astype(np.float64)
    middles: NDArray[np.float64] = ends - (counts - 1) / 2
    return middles[places]
