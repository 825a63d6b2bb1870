"""A map as a segmentation of its photo, against masks; no image is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Score, Vectors
from eyeshine.metrics.case import Case
from eyeshine.metrics.places import NOTHING_SEEN, Array, Localisation, Mask, compared, otsu, seen_objects

__all__ = ["PixelAp", "PixelIou", "Segmentation"]


@dataclass(frozen=True)
class PixelAp(Localisation):
    """Average precision of the pixels, ranked by heat: ``sum (R_n - R_n-1) P_n`` over the distinct values.

    Equally hot pixels enter together, so a flat map scores the share of the picture that is object.

    Attributes:
        both: rank every pixel twice, as object by the min-max heat h and as background by 1 - h, in one list: Chefer et
            al.'s mAP. Half of that list is right, so that chance, and a flat map, score .5.
    """

    both: bool = False

    name: ClassVar[str] = "pixel_ap"
    reference: ClassVar[str] = "Chefer, Gur, Wolf, Transformer Interpretability Beyond Attention, CVPR 2021"

    def read(self, case: Case, vectors: Vectors) -> Score:
        def play(heat: Array, objects: Mask) -> float:
            values, truth = heat.ravel(), objects.any(axis=0).ravel()
            if self.both:
                share = (values.astype(np.float64) - values.min()) / (np.ptp(values) or 1)
                values, truth = np.concatenate([share, 1 - share]), np.concatenate([truth, ~truth])
            order = np.argsort(-values, kind="stable")
            ranked, mask = values[order], truth[order]
            last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
            found = np.cumsum(mask)[last]
            return float(np.sum(np.diff(found, prepend=0) * (found / (last + 1))) / found[-1])

        return compared(case, play, of_flat=lambda objects: 0.5 if self.both else float(objects.any(axis=0).mean()))


@dataclass(frozen=True)
class PixelIou(Localisation):
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

        return compared(case, play)

    def _value(self, heat: NDArray[np.float64]) -> float:
        if self.threshold == "mean":
            return float(heat.mean())
        if self.threshold == "otsu":
            return otsu(heat)
        return float(heat.min() + float(self.threshold) * np.ptp(heat))


@dataclass(frozen=True)
class Segmentation(Localisation):
    """The picture cut in two by the mean of the heat: mean IoU of objects and background. A flat map has no object.

    A data set adds its ``parts`` up before it divides, as Chefer et al. do: pixel accuracy is the sum of ``correct``
    over that of ``labelled``, mIoU the mean of ``object_inter`` / ``object_union`` and the same of the background. The
    value of one picture is its own mean IoU. Their F1 is computed per row of the picture, and is not offered.
    """

    name: ClassVar[str] = "segmentation"
    reference: ClassVar[str] = PixelAp.reference

    def read(self, case: Case, vectors: Vectors) -> Score:
        found = seen_objects(case)
        if found is None:
            return NOTHING_SEEN
        heat, objects = found
        mask = objects.any(axis=0)
        hot = np.zeros_like(mask) if case.is_flat else heat > heat.astype(np.float64).mean()
        parts: dict[str, float] = {"correct": float((mask == hot).sum()), "labelled": float(mask.size)}
        for name, truth, answer in (("object", mask, hot), ("background", ~mask, ~hot)):
            parts[f"{name}_inter"], parts[f"{name}_union"] = (
                float((truth & answer).sum()),
                float((truth | answer).sum()),
            )
        unions = [name for name in ("object", "background") if parts[f"{name}_union"]]
        value = float(np.mean([parts[f"{name}_inter"] / parts[f"{name}_union"] for name in unions]))
        return Score(value, parts=tuple(parts.items()))
