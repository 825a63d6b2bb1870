"""Matrix products in NumPy that stay on the calling thread.

OpenBLAS, which NumPy's wheels hold, computes a small product on the calling thread and wakes threads of its own for a
larger one. These then spin, seen for more than 80 ms, and take what an engine's next run on the same CPUs needs: in a
loop of explanations (B/16, 10 prompts, two CPUs) the graph took 132 ms where it takes 104, by MMEL 144 for 96. Here
nothing is woken, and products take longer: .5 ms of all maps instead of .4, MMEL's 1.9 for 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["gram", "matmul"]

Array = NDArray[np.floating[Any]]

_OF_MATRICES = 4 * 65536
"""Multiplications up to which OpenBLAS keeps a product of matrices on the calling thread."""
_OF_A_VECTOR = 4 * 2304 - 1
"""The same of a matrix and a vector. Newer versions, 0.3.31 among them, do so up to 460,800."""
_INNER = 8192
"""The same of two vectors (10,000), rounded down: longer sums are made of parts."""
_ROWS = 8  # at least, of a piece whose columns have to be divided too: a piece of one row would be a vector's product
_TILE = 56  # rows of Gram matrices' pieces, at most; 196 x 768 takes .49 ms in tiles of 49, 1 of 28; on two threads .24


def matmul(left: Any, right: Any) -> Any:
    """``left @ right`` of [..., m, k] or [k] and [..., k, n] or [k], up to rounding; of tensors as torch has it.

    Raises:
        ValueError: shapes that do not fit, as of ``numpy.matmul``.
    """
    if not isinstance(left, np.ndarray):
        return left @ right
    if right.ndim == 1:
        return matmul(left, right[:, None])[..., 0]
    if left.ndim == 1:
        return matmul(left[None], right)[..., 0, :]
    (rows, inner), columns = left.shape[-2:], right.shape[-1]
    if inner != right.shape[-2]:
        raise ValueError(f"matmul of [..., {rows}, {inner}] and [..., {right.shape[-2]}, {columns}]")
    if inner > _INNER:
        return sum(matmul(left[..., part], right[..., part, :]) for part in _pieces(inner, _INNER))
    most = max(1, (_OF_MATRICES if rows > 1 and columns > 1 else _OF_A_VECTOR) // max(1, inner))
    high = min(rows, max(_ROWS, most // max(1, columns))) if columns > 1 else most
    wide = most // max(1, high)
    if rows <= high and columns <= wide:
        return left @ right
    leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    result = np.empty((*leading, rows, columns), np.result_type(left, right))
    for down in _pieces(rows, high):
        for across in _pieces(columns, wide):
            np.matmul(left[..., down, :], right[..., across], out=result[..., down, across])
    return result


def gram(vectors: Array) -> Array:
    """``vectors @ vectors.T`` of [n, k], up to rounding: tiles of one triangle, the other is copied."""
    count, inner = vectors.shape
    tiles = max(1, -(-count // _TILE))
    side = -(-count // tiles)
    parts = max(1, -(-inner // max(1, _OF_MATRICES // max(1, side * side))))
    depth = -(-inner // parts)
    padded = np.zeros((tiles * side, parts * depth), vectors.dtype)
    padded[:count, :inner] = vectors
    cut = np.ascontiguousarray(padded.reshape(tiles, side, parts, depth).swapaxes(1, 2))
    result = np.empty((tiles, side, tiles, side), vectors.dtype)
    for tile in range(tiles):
        found = (cut[tile] @ cut[tile:].swapaxes(2, 3)).sum(axis=1)
        result[tile:, :, tile] = found.swapaxes(1, 2)
        result[tile, :, tile:] = found.swapaxes(0, 1)
    return result.reshape(tiles * side, tiles * side)[:count, :count]


def _pieces(length: int, most: int) -> Iterator[slice]:
    """Slices of ``length``, as equal as they can be, of at most so many."""
    count = -(-length // max(1, most))
    for number in range(count):
        yield slice(length * number // count, length * (number + 1) // count)
