"""What stands where a part of an image is deleted."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fill", "FixedFill", "blurred", "filled"]

Array = NDArray[np.float32]
Fill = Literal["mean", "black", "blur", "random"]
"""The mean colour, which normalisation takes to 0; black; the image under RISE's blur; a random colour per pixel."""

FixedFill = Literal["mean", "black", "blur"]
"""Those that draw nothing."""

_BLUR_WIDTH, _BLUR_SIGMA = 11, 5.0  # pixels; RISE's kernel


def blurred(image: Array, mean: Array) -> Array:
    """RISE's blur of an image [3, Y, X] whose mean colour is [3]: 11 pixels wide, sigma 5, the mean beyond the edge.

    The released kernel is a Gaussian of 41 pixels folded back into its 11 (the filter that makes it reflects at the
    edges of the kernel), so it is flatter than a Gaussian cut off there.
    """
    half, reach = _BLUR_WIDTH // 2, int(4 * _BLUR_SIGMA)
    offset = np.arange(-reach, reach + 1)
    weight = np.exp(-0.5 * (offset / _BLUR_SIGMA) ** 2)
    place = (half + offset) % (2 * _BLUR_WIDTH)
    kernel = np.bincount(np.minimum(place, 2 * _BLUR_WIDTH - 1 - place), weight / weight.sum(), _BLUR_WIDTH)
    result = image - mean[:, None, None]
    for axis in (1, 2):
        padded = np.pad(result, [(half, half) if a == axis else (0, 0) for a in range(3)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, _BLUR_WIDTH, axis)
        result = windows @ kernel.astype(np.float32)
    return np.asarray(result + mean[:, None, None], np.float32)


def filled(image: Array, fill: Fill, mean: Array, rng: np.random.Generator | None = None) -> Array:
    """What stands where an image [3, Y, X] is deleted; "random" draws from ``rng``, by default a fresh one.

    Args:
        image: RGB in 0..1.
        fill: see ``Fill``.
        mean: [3], the colour that normalisation takes to 0.
        rng: of random colours.
    """
    if fill == "blur":
        return blurred(image, mean)
    if fill == "random":
        return (rng or np.random.default_rng()).integers(0, 255, image.shape).astype(np.float32) / np.float32(255)
    colour = mean if fill == "mean" else np.zeros(3, np.float32)
    return np.broadcast_to(colour[:, None, None], image.shape).astype(np.float32)
