"""How alike two maps are. None where a map is flat, or lacks a sign: it then says nothing that could agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from eyeshine.checks import check_share
from eyeshine.errors import OptionError
from eyeshine.statistics import rank_correlation

__all__ = ["likeness", "sign_agreement", "spearman", "ssim", "top_overlap"]

Map = NDArray[Any]
_WINDOW = 7  # patches a side; skimage's default, and half of CLIP's usual grid of 14
_C1, _C2 = 0.01**2, 0.03**2  # of Wang et al. 2004, for values in 0..1


def likeness(first: Map, second: Map) -> dict[str, float | None]:
    """``spearman``, ``spearman_abs`` and ``ssim`` of two maps [h, w]."""
    return {
        "spearman": spearman(first, second),
        "spearman_abs": spearman(np.abs(first), np.abs(second)),
        "ssim": ssim(first, second),
    }


def spearman(first: Map, second: Map) -> float | None:
    """Rank correlation of two maps of one shape, -1..1, ties at their mean rank.

    Raises:
        OptionError: maps of two shapes.
    """
    _check(first, second)
    if _flat(first) or _flat(second):
        return None
    return rank_correlation(first, second)


def ssim(first: Map, second: Map) -> float | None:
    """Structural similarity of two maps [h, w], -1..1, each scaled to 0..1 by its own range.

    Wang et al. 2004 as scikit-image computes it by default: windows of 7 x 7 patches (the largest odd side that fits a
    smaller grid), all weights equal, sample covariance; mean over the windows that lie within the map.

    Raises:
        OptionError: maps of two shapes.
    """
    _check(first, second)
    if _flat(first) or _flat(second):
        return None
    side = min(_WINDOW, *first.shape)
    side -= 1 - side % 2
    if side < 2:  # a single row or column of patches has no windows to compare
        return None
    x, y = (sliding_window_view(_scaled(each), (side, side)).reshape(-1, side * side) for each in (first, second))
    mean_x, mean_y = x.mean(1), y.mean(1)
    of_sample = side * side / (side * side - 1)
    var_x, var_y = x.var(1) * of_sample, y.var(1) * of_sample
    together = ((x * y).mean(1) - mean_x * mean_y) * of_sample
    upper = (2 * mean_x * mean_y + _C1) * (2 * together + _C2)
    lower = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return float((upper / lower).mean())


def top_overlap(first: Map, second: Map, share: float = 0.1) -> float | None:
    """Which part of the hottest patches two maps have in common, 0..1; ``share`` of all by chance.

    Patches that are as hot as the last one of the top share its remaining places, so that no order decides.

    Args:
        first, second: maps of one shape.
        share: of the patches, 0..1: at least one patch.

    Raises:
        OptionError: maps of two shapes, or a share outside its range.
    """
    _check(first, second)
    check_share("share", share)
    if _flat(first) or _flat(second):
        return None
    count = max(1, round(share * first.size))
    return float(np.minimum(_top(first, count), _top(second, count)).sum() / count)


def sign_agreement(first: Map, second: Map) -> float | None:
    """Share of the patches that have the same sign in both maps, of those that are 0 in neither; 0..1.

    None where a map has no negative or no positive value: such a method makes no statement about signs.

    Raises:
        OptionError: maps of two shapes.
    """
    _check(first, second)
    if not all((each > 0).any() and (each < 0).any() for each in (first, second)):
        return None
    signs = np.sign(first) * np.sign(second)
    there = signs != 0
    return float((signs[there] > 0).mean()) if there.any() else None


def _top(heat: Map, count: int) -> NDArray[np.float64]:
    """How much of each patch belongs to the hottest ``count``, 0..1."""
    values = heat.reshape(-1)
    last = np.partition(values, values.size - count)[values.size - count]
    above, level = values > last, values == last
    result: NDArray[np.float64] = above + level * ((count - above.sum()) / level.sum())
    return result


def _scaled(heat: Map) -> NDArray[np.float64]:
    values = heat.astype(np.float64)
    scaled: NDArray[np.float64] = (values - values.min()) / (values.max() - values.min())
    return scaled


def _flat(heat: Map) -> bool:
    return bool(heat.min() == heat.max())


def _check(first: Map, second: Map) -> None:
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        got = f"{list(first.shape)} and {list(second.shape)}"
        raise OptionError("maps that cannot be compared", got=got, allowed="two maps [h, w] of one shape")
