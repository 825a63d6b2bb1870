"""Metrics of a map against masks of the objects; no image is encoded.

All of them look at the part of the photo that the model saw: what was cropped away can be neither found nor missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Direction, Score, Vectors, View, check_choice
from eyeshine.metrics.case import Case
from eyeshine.metrics.places import near, otsu, peaks, seen
from eyeshine.upsample import to_image

__all__ = ["EnergyPointingGame", "MultiObjectHitRate", "PixelAp", "PixelIou", "PointingGame"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

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
            hits = near(mask, np.argwhere(heat == heat.max()), self.tolerance_px)
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
            points = peaks(case, len(objects)) - [part.start for part in seen(case)]
            inside = points.clip(0, np.array(heat.shape) - 1)
            return float(np.mean([near(mask, inside, self.tolerance_px).any() for mask in objects]))

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
            return otsu(heat)
        return float(heat.min() + float(self.threshold) * np.ptp(heat))


def _compared(
    case: Case, play: Callable[[Array, Mask], float], of_flat: Callable[[Mask], float] = lambda _: 0.0
) -> Score:
    """Play with the heat [h, w] and the objects [K, h, w] that the model saw, none of them empty."""
    assert case.masks is not None
    rows, columns = seen(case)
    objects = case.masks[:, rows, columns]
    objects = objects[objects.any(axis=(1, 2))]
    if not len(objects):
        return Score(None, flags=("no pixel of the mask is in what the model saw",))
    if case.is_flat:
        return Score(of_flat(objects))
    return Score(play(to_image(case.map, case.crop)[rows, columns], objects))


def _check_tolerance(tolerance_px: object) -> None:
    if not isinstance(tolerance_px, float | int) or not 0 <= tolerance_px <= 1000:
        raise OptionError("tolerance is in pixels", got=repr(tolerance_px), allowed="0..1000")
