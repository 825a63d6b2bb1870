"""The definition of ``overlay`` in NumPy: a map over its photograph, in integers from the level of heat on."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.upsample.reference import check_arrays, reference_upsample
from eyeshine_kernels.upsample.reference import check_shapes as check_maps

__all__ = ["GREY", "MARK", "check_shapes", "mute_steps", "reference_overlay"]

Array = NDArray[Any]

GREY: Final = (19595, 38470, 7471)
"""Luma of ITU-R BT.601 in 1/65536, the weights of Pillow's mode "L"."""

MARK: Final = (255, 0, 255)
"""Colour of a pixel whose heat is NaN, opaque: uint8 has no NaN, and no usual colour map has this magenta."""


def mute_steps(mute: float) -> int:
    """The share of grey in 1/65536, rounded half up.

    Raises:
        KernelError: not a number in 0..1.
    """
    if isinstance(mute, bool) or not isinstance(mute, Real) or not 0 <= mute <= 1:
        raise KernelError(f"mute is out of range: got {mute!r}, allowed 0..1")
    return math.floor(65536 * float(mute) + 0.5)


def check_shapes(images: tuple[int, ...], maps: tuple[int, ...], colours: tuple[int, ...], strengths: object) -> None:
    """Check a call: images [B, H, W, 3], maps [B, P, h, w], colours [256, 3], strengths [256].

    Raises:
        KernelError: another shape.
    """
    if len(images) != 4 or images[3] != 3:
        raise KernelError(f"images have the wrong shape: got {images}, allowed [B, H, W, 3]")
    if len(maps) != 4 or maps[0] != images[0]:
        raise KernelError(f"maps do not fit the images {images}: got {maps}, allowed [{images[0]}, P, h, w]")
    if (colours, strengths) != ((256, 3), (256,)):
        raise KernelError(f"not look-up tables: got colours {colours}, strengths {strengths}, allowed [256, 3], [256]")


def reference_overlay(
    images: Array, maps: Array, colours: Array, strengths: Array, mute: float, crops: Array | None
) -> Array:
    """Up-sample each map, look its level up, and lay the colour over the muted photograph.

    With heat h of ``upsample``, cut to 0..1, every division rounded half up:

        level  = floor(255 h + 1/2)
        grey   = (19595 R + 38470 G + 7471 B) / 65536       m = mute in 1/65536
        photo' = ((65536 - m) photo + m grey) / 65536
        result = ((255 - strengths[level]) photo' + strengths[level] colours[level]) / 255

    Args:
        images: [B, H, W, 3], uint8, RGB.
        maps: [B, P, h, w], float64, float32 or float16, in 0..1.
        colours: [256, 3], uint8, RGB of each level.
        strengths: [256], uint8, the share of colour at each level in 1/255.
        mute: 0..1, how far the photograph is taken towards grey first.
        crops: [B, 4], y0, x0, y1, x1 in pixels, or None; outside, the heat is 0.

    Returns:
        [B, P, H, W, 3], uint8; ``MARK`` where the heat is NaN.

    Raises:
        KernelError: a shape, a dtype or a value that is not allowed.
    """
    for name, array in {"images": images, "colours": colours, "strengths": strengths}.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise KernelError(f"{name} cannot be read: got {got}, allowed a NumPy array of uint8")
    check_arrays(maps, crops)
    check_shapes(images.shape, maps.shape, colours.shape, strengths.shape)
    share = mute_steps(mute)
    size = images.shape[1:3]
    check_maps(maps.shape, size, None if crops is None else crops.shape)
    # Half-precision maps are interpolated in float32, and the heat is not rounded back.
    heat = reference_upsample(maps.astype(np.promote_types(maps.dtype, np.float32)), size, crops)
    result = np.empty((*heat.shape, 3), np.uint8)
    for image, prompt in np.ndindex(heat.shape[:2]):
        photo = images[image].astype(np.int32)
        grey = (photo @ np.array(GREY, np.int32) + 32768) >> 16
        photo = ((65536 - share) * photo + share * grey[..., None] + 32768) >> 16
        one = heat[image, prompt]
        level = np.floor(255 * np.clip(np.nan_to_num(one, nan=0.0), 0, 1) + 0.5).astype(np.intp)
        strength = strengths[level].astype(np.int32)[..., None]
        blend = ((255 - strength) * photo + strength * colours[level] + 127) // 255
        result[image, prompt] = np.where(np.isnan(one)[..., None], np.array(MARK), blend)
    return result
