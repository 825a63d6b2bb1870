"""Maps among each other, of several texts or of two bundles, and against a region of the photo."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.checks import check_whole
from eyeshine.errors import OptionError
from eyeshine.explanation import Explanation
from eyeshine.statistics.distribution import as_distribution
from eyeshine.statistics.ranks import rank_correlation
from eyeshine.upsample import to_image

__all__ = ["agreement", "consistency", "overlap", "share_inside"]

Array = NDArray[np.float64]

_POINTS_EACH = 4
"""Points along each side of a patch at which maps of two grids are compared."""


def consistency(explanation: Explanation, image: int = 0) -> Array:
    """Rank correlations [P, P] of the maps of an image for its P texts; 1 on the diagonal.

    A method that does not depend on the text has 1 everywhere; NaN where a map is flat.

    Raises:
        OptionError: no such image.
    """
    _check_image(explanation, image)
    maps = explanation.maps[image]
    return np.array([[rank_correlation(first, second) for second in maps] for first in maps])


def agreement(first: Explanation, second: Explanation) -> Array:
    """Rank correlations [B, P] of two explanations of the same photos and texts, by two bundles or two methods.

    The maps are compared at points of the photo, four along each side of a patch of the finer grid, where both models
    saw it; NaN where a map is flat there.

    Raises:
        OptionError: other texts, or other photos.
    """
    same = len(first.images) == len(second.images) and all(map(np.array_equal, first.images, second.images))
    if first.texts != second.texts or not same:
        raise OptionError("two explanations of different requests", allowed="the same photos and texts in both")
    rows, columns = (
        _POINTS_EACH * max(sides) for sides in zip(first.patch_grid, second.patch_grid, strict=True)
    )  # fmt: skip
    found = np.empty(first.maps.shape[:2])
    for image in range(len(first.images)):
        drawn = [to_image(each.maps[image], each.crops[image], (rows, columns)) for each in (first, second)]
        seen = _seen(first, image, (rows, columns)) & _seen(second, image, (rows, columns))
        for prompt in range(len(first.texts)):
            found[image, prompt] = rank_correlation(drawn[0][prompt][seen], drawn[1][prompt][seen])
    return found


def share_inside(explanation: Explanation, region: ArrayLike, image: int = 0) -> Array:
    """``sum_x h(x) g(x) / sum_x h(x)`` for each text, [P] in 0..1: how much of the heat lies where g is 1.

    h is the positive part of the map on the photo, g a box or a map of gaze over its largest value.

    Args:
        explanation: of the photo.
        region: (x0, y0, x1, y1) in pixels of the photo, upper left and lower right edge; or [H, W] of the photo's size,
            from 0: where people looked.
        image: of the explanation.

    Raises:
        OptionError: a region that is empty, outside, negative or of another size; a map without positive values; no
            such image.
    """
    _check_image(explanation, image)
    gaze = _region(np.asarray(region, np.float64), explanation.images[image].shape[:2])
    result: Array = (_heat(explanation, image) * (gaze / gaze.max()).reshape(-1)).sum(-1)
    return result


def overlap(explanation: Explanation, gaze: ArrayLike, image: int = 0) -> Array:
    """``sum_x min(p(x), q(x))`` for each text, [P] in 0..1: heat and gaze both divided by their sums ("similarity").

    Args and errors as in ``share_inside``; 1 where both are the same, which a share inside never tells.
    """
    _check_image(explanation, image)
    given = _region(np.asarray(gaze, np.float64), explanation.images[image].shape[:2])
    result: Array = np.minimum(_heat(explanation, image), as_distribution(given.reshape(-1))).sum(-1)
    return result


def _check_image(explanation: Explanation, image: int) -> None:
    check_whole("image", image, 0, len(explanation.images) - 1)


def _heat(explanation: Explanation, image: int) -> Array:
    """[P, H * W], the positive part of each map on the photo, over its sum."""
    drawn = to_image(explanation.maps[image], explanation.crops[image])
    return as_distribution(np.maximum(drawn, 0).reshape(len(drawn), -1))


def _seen(explanation: Explanation, image: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where of the photo the model saw something."""
    ones = np.ones(explanation.patch_grid, np.float32)
    return np.asarray(to_image(ones, explanation.crops[image], size) > 0)


def _region(region: Array, size: tuple[int, ...]) -> Array:
    """A box or a map as [H, W], from 0, not all 0."""
    height, width = size
    if region.shape == (4,):
        x0, y0, x1, y1 = region
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            allowed = f"0 <= x0 < x1 <= {width}, 0 <= y0 < y1 <= {height}"
            raise OptionError("box", got=region.tolist(), allowed=allowed)
        across, down = (_covered(low, high, length) for low, high, length in ((x0, x1, width), (y0, y1, height)))
        box: Array = np.outer(down, across)
        return box
    if region.shape != (height, width) or not np.isfinite(region).all() or region.min() < 0 or not region.any():
        got: Any = f"shape {list(region.shape)}"
        raise OptionError("region", got=got, allowed=f"a box of 4 numbers, or [{height}, {width}] from 0, not all 0")
    return region


def _covered(low: float, high: float, length: int) -> Array:
    """The share of each pixel i, from i to i + 1, between two edges."""
    start = np.arange(length)
    covered: Array = np.clip(np.minimum(start + 1, high) - np.maximum(start, low), 0, 1)
    return covered
