"""Weights of patches as a distribution: how spread out it is, in bits and in space."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine_kernels.products import matmul

__all__ = ["Around", "as_distribution", "distance", "entropy_bits"]

Array = NDArray[np.float64]
Around = Literal["centre", "peak"] | tuple[float, float]


def as_distribution(weights: NDArray[Any]) -> Array:
    """[..., N] divided by its sum, float64.

    Raises:
        OptionError: weights that are negative, not finite, or all 0.
    """
    values = np.asarray(weights, np.float64)
    if not values.ndim or not values.size or not np.isfinite(values).all() or (values < 0).any():
        got = f"shape {list(values.shape)}" if not values.ndim or not values.size else f"smallest {values.min():.3g}"
        raise OptionError("weights of patches are no distribution", got=got, allowed="[..., N], finite, from 0")
    total = values.sum(-1, keepdims=True)
    if (total == 0).any():
        raise OptionError("weights of patches are all 0", cure="take a map that has evidence")
    result: Array = values / total
    return result


def entropy_bits(weights: NDArray[Any]) -> Array:
    """``-sum_i p_i log2 p_i`` of [..., N], p the weights over their sum: 0 for one patch, log2 N for all alike.

    Raises:
        OptionError: weights that are negative, not finite, or all 0.
    """
    shares = as_distribution(weights)
    logarithms = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    result: Array = -(shares * logarithms).sum(-1)
    return result


def distance(
    weights: NDArray[Any],
    grid: tuple[int, int],
    *,
    around: Around = "centre",
    cell: tuple[float, float] = (1.0, 1.0),
) -> Array:
    """``sum_i p_i |x_i - o|``: how far the weights of patches lie from a point, on average.

    The class token, whose attention it mostly is, has no place of its own; so the point is named.

    Args:
        weights: [..., N], from 0.
        grid: rows and columns of patches, row by row.
        around: o: "centre" (of the weights themselves, their spread), "peak" (the patch of the largest weight, the
            first of several), or (row, column) of a point on the grid, the first patch's being (0, 0): a query token's,
            for its own attention.
        cell: height and width of a patch; (1, 1) gives patches, the patch size pixels.

    Returns:
        [...], in the unit of ``cell``.

    Raises:
        OptionError: weights as in ``entropy_bits``, another grid, or an unknown point.
    """
    shares = as_distribution(weights)
    if min(grid) < 1 or grid[0] * grid[1] != shares.shape[-1]:
        raise OptionError("grid of patches", got=grid, allowed=f"rows and columns of {shares.shape[-1]} patches")
    places = np.stack(np.meshgrid(*(np.arange(size) for size in grid), indexing="ij"), -1).reshape(-1, 2) * cell
    if around == "centre":
        origin = matmul(shares, places)
    elif around == "peak":
        origin = places[shares.argmax(-1)]
    elif _on_grid(around, grid):
        origin = np.asarray(around, np.float64) * cell
    else:
        allowed = f"centre, peak, (row, column) from (0, 0) to ({grid[0] - 1}, {grid[1] - 1})"
        raise OptionError("unknown point", got=repr(around), allowed=allowed)
    gaps = np.linalg.norm(places - origin[..., None, :], axis=-1)
    result: Array = (shares * gaps).sum(-1)
    return result


def _on_grid(around: object, grid: tuple[int, int]) -> bool:
    """Whether a point is (row, column) between the centres of the outermost patches."""
    if not isinstance(around, tuple) or len(around) != 2:
        return False
    return all(isinstance(x, int | float) and 0 <= x <= size - 1 for x, size in zip(around, grid, strict=True))
