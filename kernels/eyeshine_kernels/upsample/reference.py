"""The definition of ``upsample`` in NumPy: patch maps to pixels, bilinear, 0 outside the region that the model saw."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import KernelError

__all__ = ["EDGE", "MAX_SIDE", "check_arrays", "check_shapes", "crop_boxes", "reference_upsample"]

Array = NDArray[Any]

EDGE: Final = 1e-6
"""Pixels: a centre this close to the edge of the region is inside, whichever way its last bit was rounded."""

MAX_SIDE: Final = 1 << 22
"""Pixels of the longest side: up to here the centre of a pixel is exact in float32."""

_DTYPES: Final = ("float64", "float32", "float16")


def check_shapes(maps: tuple[int, ...], size: tuple[int, int], crops: tuple[int, ...] | None) -> None:
    """Check a call: maps [B, P, h, w], size (H, W) in pixels, crops [B, 4] or None.

    Raises:
        KernelError: another shape, or a size that is no image's.
    """
    if len(maps) != 4 or 0 in maps[2:]:
        raise KernelError(f"maps have no grid: got shape {maps}, allowed [B, P, h, w] with h and w at least 1")
    sides = isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(n, int | np.integer) for n in size)
    if not sides or not all(1 <= side <= MAX_SIDE for side in size):
        raise KernelError(f"not an image size: got {size!r}, allowed (height, width), each 1..{MAX_SIDE} pixels")
    if crops is not None and crops != (maps[0], 4):
        raise KernelError(f"crops do not fit the maps {maps}: got shape {crops}, allowed {(maps[0], 4)}")


def check_arrays(maps: Array, crops: Array | None) -> None:
    """Check that the inputs are NumPy arrays of floats.

    Raises:
        KernelError: another kind or dtype.
    """
    for name, array in {"maps": maps, "crops": crops}.items():
        if array is not None and (not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES):
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise KernelError(f"{name} cannot be computed: got {got}, allowed a NumPy array of {', '.join(_DTYPES)}")


def crop_boxes(crops: Array | None, images: int, size: tuple[int, int]) -> Array:
    """The boxes in float64, [B, 4]; the whole image where there are none.

    Raises:
        KernelError: a box without area or beyond the image.
    """
    height, width = size
    if crops is None:
        return np.tile(np.array([0.0, 0.0, height, width]), (images, 1))
    boxes: Array = crops.astype(np.float64)
    for y0, x0, y1, x1 in boxes:
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            got = f"rows {y0:g}..{y1:g}, columns {x0:g}..{x1:g}"
            raise KernelError(f"crop is not a region of the image: got {got}, allowed within {height}x{width}")
    return boxes


def _places(length: int, start: float, stop: float, cells: int) -> tuple[Array, Array, Array, Array]:
    """Per pixel of an axis: the cell before it, the cell after it, the share of the latter, and whether it is seen."""
    centre = np.arange(length) + 0.5
    place = np.clip((centre - start) * (cells / (stop - start)) - 0.5, 0.0, cells - 1.0)
    first = place.astype(np.intp)
    seen = ~((start - centre > EDGE) | (centre - stop > EDGE))
    return first, np.minimum(first + 1, cells - 1), place - first, seen


def reference_upsample(maps: Array, size: tuple[int, int], crops: Array | None) -> Array:
    """Interpolate between the centres of the cells, constant beyond the outermost; a pixel outside its crop is 0.

    Half-pixel centres, as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``; rows first.

    Args:
        maps: [B, P, h, w], float64, float32 or float16, any unit; the grid covers the crop.
        size: height and width of the result in pixels.
        crops: [B, 4], y0, x0, y1, x1 in pixels of the result (pixel i covers i..i+1); None is the whole.

    Returns:
        [B, P, H, W] in the maps' dtype and unit, computed in float32, or in float64 where the maps are; places are
        computed in float64. A NaN spreads as far as its cell does.

    Raises:
        KernelError: a shape, a dtype, a size or a box that is not allowed.
    """
    check_arrays(maps, crops)
    check_shapes(maps.shape, size, None if crops is None else crops.shape)
    kind = np.float64 if maps.dtype == np.float64 else np.float32
    images, prompts, rows, columns = maps.shape
    result = np.empty((images, prompts, *size), maps.dtype)
    for image, (y0, x0, y1, x1) in enumerate(crop_boxes(crops, images, size)):
        upper, lower, down, seen_rows = _places(size[0], y0, y1, rows)
        left, right, across, seen_columns = _places(size[1], x0, x1, columns)
        grid = maps[image].astype(kind)
        above = grid[:, upper]
        lines = above + down.astype(kind)[:, None] * (grid[:, lower] - above)
        before = lines[..., left]
        heat = before + across.astype(kind) * (lines[..., right] - before)
        result[image] = np.where(seen_rows[:, None] & seen_columns, heat, kind(0))
    return result
