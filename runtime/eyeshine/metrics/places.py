"""Where heat and masks meet: the part that the model saw, hits within a distance, peaks, Otsu's threshold.

Metrics of places look at what the model saw of the photo: what was cropped away can be neither found nor missed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.metrics.base import Direction, Score, View
from eyeshine.metrics.case import Case
from eyeshine.upsample import to_image

__all__ = ["NOTHING_SEEN", "Array", "Localisation", "Mask", "compared", "near", "otsu", "peaks", "seen", "seen_objects"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Points = NDArray[np.intp]


class Localisation:
    """What metrics of a map against masks have in common."""

    direction: ClassVar[Direction] = "higher"
    unit: ClassVar[str] = "fraction"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    views: ClassVar[tuple[View, ...]] = ()


NOTHING_SEEN = Score(None, flags=("no pixel of the mask is in what the model saw",))


def seen_objects(case: Case) -> tuple[Array, Mask] | None:
    """The heat [h, w] and the objects [K, h, w] in what the model saw, none of them empty; None without any."""
    assert case.masks is not None
    rows, columns = seen(case)
    objects = case.masks[:, rows, columns]
    objects = objects[objects.any(axis=(1, 2))]
    return (to_image(case.map, case.crop)[rows, columns], objects) if len(objects) else None


def compared(
    case: Case, play: Callable[[Array, Mask], float], of_flat: Callable[[Mask], float] = lambda _: 0.0
) -> Score:
    """Play with the heat and the objects that the model saw; a flat map is not played with."""
    found = seen_objects(case)
    if found is None:
        return NOTHING_SEEN
    heat, objects = found
    return Score(of_flat(objects) if case.is_flat else play(heat, objects))


def seen(case: Case) -> tuple[slice, slice]:
    """Rows and columns of the photo whose centres lie in what the model saw; as ``to_image`` rounds."""
    return _centred(case.crop.y0, case.crop.y1), _centred(case.crop.x0, case.crop.x1)


def _centred(start: float, stop: float) -> slice:
    edge = 1e-6  # a centre on the edge is inside, whichever way its last bit was rounded
    return slice(ceil(start - 0.5 - edge), floor(stop - 0.5 + edge) + 1)


def near(mask: Mask, points: Points, tolerance_px: float) -> Mask:
    """[n]: whether an object pixel lies within the tolerance of each point [n, 2]."""
    if tolerance_px == 0:
        return np.asarray(mask[points[:, 0], points[:, 1]])
    reach = floor(tolerance_px)
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (offset**2).sum(axis=0) <= tolerance_px**2
    wide = np.pad(mask, reach)  # a window of the padded mask at (y, x) is centred on (y, x) of the mask
    size = 2 * reach + 1
    return np.array([(wide[y : y + size, x : x + size] & disc).any() for y, x in points])


def peaks(case: Case, count: int) -> Points:
    """Pixels (row, column) of the photo under the centres of the ``count`` highest peaks."""
    wide = np.pad(case.map, 1, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(wide, (3, 3)).max(axis=(2, 3))
    found = np.argwhere((case.map >= around) & (case.map > 0))
    best = found[np.argsort(-case.map[tuple(found.T)], kind="stable")[:count]]
    crop = case.crop
    size = np.array([crop.y1 - crop.y0, crop.x1 - crop.x0]) / case.map.shape
    return np.asarray(((best + 0.5) * size + [crop.y0, crop.x0]).astype(np.intp))


def otsu(heat: NDArray[np.float64]) -> float:
    """Otsu's threshold over 256 bins: the largest variance between the two classes."""
    count, edges = np.histogram(heat, 256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(count)[:-1]
    above = heat.size - below
    mass = np.cumsum(count * middle)
    between = below * above * (mass[:-1] / below.clip(1) - (mass[-1] - mass[:-1]) / above.clip(1)) ** 2
    return float(edges[1:][int(np.argmax(between))])
