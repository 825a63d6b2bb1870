"""Games of pointing: where the hottest points or most of the heat lie, against masks; no image is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Score, Vectors, check_choice
from eyeshine.metrics.case import Case
from eyeshine.metrics.places import Array, Localisation, Mask, compared, near, peaks, seen

__all__ = ["EnergyPointingGame", "MultiObjectHitRate", "PointingGame"]

_QUANTUS = "Quantus"


@dataclass(frozen=True)
class PointingGame(Localisation):
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

        return compared(case, play)


@dataclass(frozen=True)
class EnergyPointingGame(Localisation):
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

        return compared(case, play)


@dataclass(frozen=True)
class MultiObjectHitRate(Localisation):
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

        return compared(case, play)


def _check_tolerance(tolerance_px: object) -> None:
    if not isinstance(tolerance_px, float | int) or not 0 <= tolerance_px <= 1000:
        raise OptionError("tolerance is in pixels", got=repr(tolerance_px), allowed="0..1000")
