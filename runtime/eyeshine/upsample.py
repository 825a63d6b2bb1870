"""From a patch map to the size of an image."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.preprocess import CropBox
from eyeshine_kernels.products import matmul

__all__ = ["Scale", "check_scale", "normalize_maps", "suppress", "to_image"]

Scale = Literal["each", "shared"]
"""``"each"``: every map fills 0..1. ``"shared"``: the maps of an image stay comparable with each other."""


def to_image(maps: NDArray[np.float32], crop: CropBox, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Interpolate patch maps onto the image that they explain.

    Bilinear between the centres of the patches, constant beyond the outermost ones (``align_corners=False``). A pixel
    whose centre lies outside the region that the model saw is exactly 0. Values stay in the range of the map, up to
    float32 rounding (2e-7 of the largest).

    Args:
        maps: float32 ``[..., gh, gw]``, one value per patch; the grid covers the region ``crop``.
        crop: the region of the image that the model saw.
        size: height and width of the result, which shows the whole image at that size; the image's own size if None.

    Returns:
        float32 ``[..., H, W]``.

    Raises:
        OptionError: maps without a grid, or an empty ``size``.
    """
    if maps.ndim < 2 or 0 in maps.shape[-2:]:
        raise OptionError("not patch maps", got=f"shape {list(maps.shape)}", allowed="[..., gh, gw]")
    height, width = (crop.height, crop.width) if size is None else _checked(size)
    if height < 1 or width < 1:
        raise OptionError("not an image size", got=size, allowed="(height, width), each 1 or more")
    rows = _weights(height, crop.height, crop.y0, crop.y1, maps.shape[-2])
    columns = _weights(width, crop.width, crop.x0, crop.x1, maps.shape[-1])
    # Rows first: the product with all columns is then the only large one, and it is a plain matrix product.
    along = matmul(rows, np.ascontiguousarray(maps, np.float32))
    return np.asarray(
        matmul(along.reshape(-1, maps.shape[-1]), columns.T).reshape(*along.shape[:-1], width), np.float32
    )


def _checked(size: object) -> tuple[int, int]:
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int | np.integer) for n in size):
        return int(size[0]), int(size[1])
    raise OptionError("not an image size", got=repr(size), allowed="(height, width), each 1 or more")


_EDGE = 1e-6  # pixels


@lru_cache(maxsize=32)  # a video, or all texts of an image, share both matrices
def _weights(length: int, image: int, start: float, stop: float, cells: int) -> NDArray[np.float32]:
    """``[length, cells]``: how much of each cell each output pixel takes; the rows outside start..stop are zero."""
    centre = (np.arange(length) + 0.5) * (image / length)
    place = np.clip((centre - start) / (stop - start) * cells - 0.5, 0.0, cells - 1.0)
    first = np.minimum(place.astype(np.intp), max(cells - 2, 0))
    share = place - first
    weights = np.zeros((length, cells))
    pixel = np.arange(length)
    weights[pixel, first] = 1.0 - share
    weights[pixel, np.minimum(first + 1, cells - 1)] += share
    # A centre on the edge of the region is inside, whichever way its last bit was rounded.
    weights[(centre < start - _EDGE) | (centre > stop + _EDGE)] = 0.0
    result = weights.astype(np.float32)
    result.setflags(write=False)
    return result


def normalize_maps(maps: NDArray[np.float32], scale: Scale = "each") -> NDArray[np.float32]:
    """Bring patch maps to 0..1 for display. Do this before :func:`to_image`, which keeps the range.

    Args:
        maps: float32 ``[P, gh, gw]``, the maps of one image for P texts.
        scale: ``"each"`` takes the smallest value of each map to 0 and its largest to 1. ``"shared"`` takes negative
            values to 0 and the largest value of all maps to 1.

    Returns:
        float32 ``[P, gh, gw]`` in 0..1. A map without contrast (``"each"``), or maps without a positive value
        (``"shared"``), give zeros.

    Raises:
        OptionError: an unknown ``scale``, or maps of another shape.
    """
    if maps.ndim != 3:
        raise OptionError("not the maps of an image", got=f"shape {list(maps.shape)}", allowed="[P, gh, gw]")
    check_scale(scale)
    if scale == "shared":
        return _divide(np.maximum(maps, np.float32(0)), np.max(maps, initial=0.0, keepdims=True))
    low = maps.min(axis=(1, 2), keepdims=True)
    above = maps - low
    return _divide(above, above.max(axis=(1, 2), keepdims=True))


def suppress(maps: NDArray[np.float32], background: float) -> NDArray[np.float32]:
    """Set patches up to ``tau = background * max`` of each map to 0 (Concept Attribution, eq. 6 and 7).

    Args:
        maps: float32 ``[P, gh, gw]``, not negative.
        background: 0..1 without 1; 0 changes nothing.

    Raises:
        OptionError: another background.
    """
    if isinstance(background, bool) or not 0 <= background < 1:
        raise OptionError("background outside its range", got=repr(background), allowed="0..1 without 1")
    if not background:
        return maps
    threshold = np.float32(background) * maps.max(axis=(1, 2), keepdims=True)
    return np.where(maps <= threshold, np.float32(0), maps)


def check_scale(scale: object) -> None:
    """Raise OptionError for an unknown scale."""
    if scale not in get_args(Scale):
        raise OptionError("unknown scale", got=repr(scale), allowed=", ".join(get_args(Scale)))


def _divide(values: NDArray[np.float32], largest: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
