"""Two maps of one image compared, and the shape of one map: how much of it lies in how many places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "Shape", "compare", "regions", "shape_of"]

Map = NDArray[np.float32]

_WINDOW: Final = 7  # patches; the window of structural similarity, as in the common implementations
_K1, _K2 = 0.01, 0.03  # of Wang et al.
_FLAT: Final = 1e-6  # of the largest value: float32 rounding


@dataclass(frozen=True)
class Comparison:
    """How alike two maps are; None where a map has no contrast, which is like nothing.

    Attributes:
        cosine: 0..1 for maps without negative values.
        pearson: -1..1, correlation of the patches.
        ssim: -1..1, structural similarity of the maps, each brought to 0..1 (Wang et al., IEEE TIP 2004).
        iou: 0..1, intersection over union of the patches that reach the share ``tau`` of their map's largest value.
    """

    cosine: float | None
    pearson: float | None
    ssim: float | None
    iou: float | None


@dataclass(frozen=True)
class Shape:
    """Where a map's energy (the sum of its values) lies.

    Attributes:
        focus: 0..1, the share of the energy in patches that reach the share ``tau`` of the largest value.
        largest: 0..1, the share in the connected region of them that holds most.
        second: 0..1, the energy of the second region over that of the first; 0 where there is one.
    """

    focus: float
    largest: float
    second: float


def compare(first: Map, second: Map, tau: float) -> Comparison:
    """Compare two maps [h, w] of one grid, values at least 0; ``tau`` in 0..1."""
    if is_flat(first) or is_flat(second):
        return Comparison(None, None, None, None)
    a, b = first.astype(np.float64), second.astype(np.float64)
    hot_a, hot_b = a >= tau * a.max(), b >= tau * b.max()
    return Comparison(
        cosine=float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))),
        pearson=float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
        ssim=_ssim(_unit(a), _unit(b)),
        iou=float((hot_a & hot_b).sum() / (hot_a | hot_b).sum()),
    )


def shape_of(values: Map, tau: float) -> Shape:
    """The shape of a map [h, w], values at least 0; all zeros for a map without energy."""
    total = float(values.sum(dtype=np.float64))
    if total <= 0:
        return Shape(0.0, 0.0, 0.0)
    labels = regions(values >= tau * values.max())
    energy = np.sort(np.bincount(labels.ravel(), values.ravel().astype(np.float64))[1:])[::-1]
    second = energy[1] / energy[0] if len(energy) > 1 else 0.0
    return Shape(float(energy.sum() / total), float(energy[0] / total), float(second))


def regions(hot: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Number the connected regions of [h, w] from 1, neighbours over corners included; 0 where nothing is hot."""
    height, width = hot.shape
    names = np.where(hot, np.arange(1, hot.size + 1).reshape(hot.shape), 0)
    while True:  # every patch takes the largest name around it until none changes: grids are small
        padded = np.pad(names, 1)
        around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        spread = np.where(hot, np.max(around, axis=0), 0)
        if (spread == names).all():
            break
        names = spread
    return np.searchsorted(np.unique(np.append(names, 0)), names)


def is_flat(values: Map) -> bool:
    """Whether a map has no contrast, to float32 rounding."""
    return bool(np.ptp(values) <= _FLAT * np.abs(values).max())


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values - values.min()) / np.ptp(values))


def _ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The mean over all whole windows; uniform weights, unbiased covariances, values in 0..1."""
    size = min(_WINDOW, *a.shape)
    cut_a, cut_b = (np.lib.stride_tricks.sliding_window_view(x, (size, size)) for x in (a, b))
    mean_a, mean_b = cut_a.mean((2, 3)), cut_b.mean((2, 3))
    unbiased = size**2 / max(size**2 - 1, 1)
    var_a, var_b = unbiased * cut_a.var((2, 3)), unbiased * cut_b.var((2, 3))
    covariance = unbiased * ((cut_a * cut_b).mean((2, 3)) - mean_a * mean_b)
    above = (2 * mean_a * mean_b + _K1**2) * (2 * covariance + _K2**2)
    below = (mean_a**2 + mean_b**2 + _K1**2) * (var_a + var_b + _K2**2)
    return float((above / below).mean())
