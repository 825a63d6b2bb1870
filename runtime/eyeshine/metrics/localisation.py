"""Metrics of a map against masks of the objects; no image is encoded.

All of them look at the part of the photo that the model saw: what was cropped away can be neither found nor missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Direction, Score, Vectors, View, check_choice
from eyeshine.metrics.case import Case
from eyeshine.upsample import to_image

__all__ = ["EnergyPointingGame", "MultiObjectHitRate", "PixelAp", "PixelIou", "PointingGame"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Points = NDArray[np.intp]

_QUANTUS = "Quantus"


class _Localisation:
    direction: ClassVar[Direction] = "higher"
    unit: ClassVar[str] = "fraction"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    views: ClassVar[tuple[View, ...]] = ()


@dataclass(frozen=True)
class PointingGame(_Localisation):
    """Whether the hottest pixel lies on an object: 1 or 0. A flat map points nowhere: 0.

    Attributes:
        tolerance_px: a hit may be so far off, in pixels of the photo; 15 in the original game, 0 in Quantus.
        ties: "any": one of the equally hot pixels is enough (Quantus); "mean": the share of them that hit, what a
            random choice would expect.
        weighted: multiply by the share of the picture that is no object, as Quantus can.
    """

    tolerance_px: float = 0.0
    ties: Literal["any", "mean"] = "any"
    weighted: bool = False

    name: ClassVar[str] = "pointing_game"
    reference: ClassVar[str] = f"Zhang et al., Excitation Backprop, ECCV 2016; {_QUANTUS}"

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance_px)
        check_choice("ties", self.ties, ("any", "mean"))

    def read(self, case: Case, vectors: Vectors) -> Score:
        def play(heat: Array, objects: Mask) -> float:
            mask: Mask = np.asarray(objects.any(axis=0))
            hits = _near(mask, np.argwhere(heat == heat.max()), self.tolerance_px)
            hit = float(hits.any() if self.ties == "any" else hits.mean())
            return hit * (1 - float(mask.mean())) if self.weighted else hit

        return _compared(case, play)


@dataclass(frozen=True)
class EnergyPointingGame(_Localisation):
    """The share of the heat that lies on the objects, of the map's positive part. A map without any: 0.

    Attributes:
        floor: "zero" takes the map's own zero; "min" its smallest value (the min-max map), which turns a signed map
            into heat nearly everywhere.
    """

    floor: Literal["zero", "min"] = "zero"

    name: ClassVar[str] = "energy_pointing_game"
    reference: ClassVar[str] = f"Wang et al., Score-CAM, CVPR-W 2020; {_QUANTUS}, relevance mass accuracy"

    def __post_init__(self) -> None:
        check_choice("floor", self.floor, ("zero", "min"))

    def read(self, case: Case, vectors: Vectors) -> Score:
        def play(heat: Array, objects: Mask) -> float:
            energy = heat.astype(np.float64) - (float(case.map.min()) if self.floor == "min" else 0.0)
            energy = np.maximum(energy, 0)
            total = float(energy.sum())
            return float(energy[objects.any(axis=0)].sum()) / total if total > 0 else 0.0

        return _compared(case, play)


@dataclass(frozen=True)
class MultiObjectHitRate(_Localisation):
    """The share of a text's K objects that the K highest peaks of the map find. Ours; K = 1 is a pointing game.

    A peak is a patch with positive heat that none of its eight neighbours exceeds; it stands at the patch's centre.
    Equal peaks count in the order of their rows, so that a plateau does not count as many hits as it has patches.

    Attributes:
        tolerance_px: how far a peak may be off an object, in pixels of the photo.
    """

    tolerance_px: float = 0.0

    name: ClassVar[str] = "multi_object_hit_rate"
    reference: ClassVar[str] = "ours: the pointing game with as many points as there are objects"

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance_px)

    def read(self, case: Case, vectors: Vectors) -> Score:
        def play(heat: Array, objects: Mask) -> float:
            points = _peaks(case, len(objects)) - [part.start for part in _seen(case)]
            inside = points.clip(0, np.array(heat.shape) - 1)
            return float(np.mean([_near(mask, inside, self.tolerance_px).any() for mask in objects]))

        return _compared(case, play)


@dataclass(frozen=True)
class PixelAp(_Localisation):
    """Average precision of the pixels, ranked by heat: ``sum (R_n - R_n-1) P_n`` over the distinct values.

    Equally hot pixels enter together, so a flat map scores the share of the picture that is object.
    """

    name: ClassVar[str] = "pixel_ap"
    reference: ClassVar[str] = "Chefer, Gur, Wolf, Transformer Interpretability Beyond Attention, CVPR 2021"

    def read(self, case: Case, vectors: Vectors) -> Score:
        def play(heat: Array, objects: Mask) -> float:
            order = np.argsort(-heat.ravel(), kind="stable")
            ranked, mask = heat.ravel()[order], objects.any(axis=0).ravel()[order]
            last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
            found = np.cumsum(mask)[last]
            return float(np.sum(np.diff(found, prepend=0) * (found / (last + 1))) / found[-1])

        return _compared(case, play, of_flat=lambda objects: float(objects.any(axis=0).mean()))


@dataclass(frozen=True)
class PixelIou(_Localisation):
    """Intersection over union of the objects and the pixels above a threshold. A flat map has none above: 0.

    Attributes:
        threshold: "mean" of the heat, as Chefer et al. segment; "otsu"; or a share of the map's range, 0..1.
    """

    threshold: Literal["mean", "otsu"] | float = "mean"

    name: ClassVar[str] = "pixel_iou"
    reference: ClassVar[str] = PixelAp.reference

    def __post_init__(self) -> None:
        share = isinstance(self.threshold, float | int) and 0 <= self.threshold < 1
        if self.threshold not in ("mean", "otsu") and not share:
            raise OptionError("unknown threshold", got=repr(self.threshold), allowed="mean, otsu, 0..1 (1 excluded)")

    def read(self, case: Case, vectors: Vectors) -> Score:
        def play(heat: Array, objects: Mask) -> float:
            mask, hot = objects.any(axis=0), heat > self._value(heat.astype(np.float64))
            return float((mask & hot).sum() / (mask | hot).sum())

        return _compared(case, play)

    def _value(self, heat: NDArray[np.float64]) -> float:
        if self.threshold == "mean":
            return float(heat.mean())
        if self.threshold == "otsu":
            return _otsu(heat)
        return float(heat.min() + float(self.threshold) * np.ptp(heat))


def _compared(
    case: Case, play: Callable[[Array, Mask], float], of_flat: Callable[[Mask], float] = lambda _: 0.0
) -> Score:
    """Play with the heat [h, w] and the objects [K, h, w] that the model saw, none of them empty."""
    assert case.masks is not None
    rows, columns = _seen(case)
    objects = case.masks[:, rows, columns]
    objects = objects[objects.any(axis=(1, 2))]
    if not len(objects):
        return Score(None, flags=("no pixel of the mask is in what the model saw",))
    if case.is_flat:
        return Score(of_flat(objects))
    return Score(play(to_image(case.map, case.crop)[rows, columns], objects))


def _seen(case: Case) -> tuple[slice, slice]:
    """Rows and columns of the photo whose centres lie in what the model saw; as ``to_image`` rounds."""
    crop, edge = case.crop, 1e-6
    return tuple(  # type: ignore[return-value]  # two of them
        slice(ceil(start - 0.5 - edge), floor(stop - 0.5 + edge) + 1)
        for start, stop in ((crop.y0, crop.y1), (crop.x0, crop.x1))
    )


def _near(mask: Mask, points: Points, tolerance_px: float) -> Mask:
    """[n]: whether an object pixel lies within the tolerance of each point [n, 2]."""
    if tolerance_px == 0:
        return np.asarray(mask[points[:, 0], points[:, 1]])
    reach = floor(tolerance_px)
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (offset**2).sum(axis=0) <= tolerance_px**2
    wide = np.pad(mask, reach)  # a window of the padded mask at (y, x) is centred on (y, x) of the mask
    size = 2 * reach + 1
    return np.array([(wide[y : y + size, x : x + size] & disc).any() for y, x in points])


def _peaks(case: Case, count: int) -> Points:
    """Pixels (row, column) of the photo under the centres of the ``count`` highest peaks."""
    wide = np.pad(case.map, 1, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(wide, (3, 3)).max(axis=(2, 3))
    peaks = np.argwhere((case.map >= around) & (case.map > 0))
    best = peaks[np.argsort(-case.map[tuple(peaks.T)], kind="stable")[:count]]
    crop = case.crop
    size = np.array([crop.y1 - crop.y0, crop.x1 - crop.x0]) / case.map.shape
    return np.asarray(((best + 0.5) * size + [crop.y0, crop.x0]).astype(np.intp))


def _otsu(heat: NDArray[np.float64]) -> float:
    """Otsu's threshold over 256 bins: the largest variance between the two classes."""
    count, edges = np.histogram(heat, 256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(count)[:-1]
    above = heat.size - below
    mass = np.cumsum(count * middle)
    between = below * above * (mass[:-1] / below.clip(1) - (mass[-1] - mass[:-1]) / above.clip(1)) ** 2
    return float(edges[1:][int(np.argmax(between))])


def _check_tolerance(tolerance_px: object) -> None:
    if not isinstance(tolerance_px, float | int) or not 0 <= tolerance_px <= 1000:
        raise OptionError("tolerance is in pixels", got=repr(tolerance_px), allowed="0..1000")
