"""Where the questions of a verdict turn."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from typing import Final

from eyeshine.errors import OptionError

__all__ = ["WITHOUT_MAPS", "Thresholds"]


@dataclass(frozen=True)
class Thresholds:
    """Where the questions turn; calibrated on roads scenes by ``python -m benchmarks.dual_calibration``.

    Presence is a distance between cosines times the model's logit scale: another model needs thresholds of its own.

    Attributes:
        presence: log odds from which a concept counts as present.
        image: log odds that the most present candidate of an image reaches where the image shows anything.
        scenery: log odds from which a prompt about the scene alone ("snow") is about this scene.
        alike_text: cosine of two texts from which they name the same.
        blind: cosine from which an answer is the same as the one without the image.
        alike_map: Pearson correlation of two maps from which they show the same.
        second: energy of a map's second region over its first from which it may show several things.
        focus: share of a map's energy in hot patches from which several regions are several things.
        largest: share of a map's energy in one region from which it points at something.
    """

    presence: float = 3.02
    image: float = 7.39
    scenery: float = 2.57
    alike_text: float = 0.33
    blind: float = 0.29
    alike_map: float = 0.67
    second: float = 0.28
    focus: float = 0.74
    largest: float = 0.48

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, float | int) or not isfinite(value):
                raise OptionError(f"threshold {field.name} is a number", got=repr(value), allowed="finite")


WITHOUT_MAPS: Final = Thresholds(alike_text=0.3)
"""Calibrated for decisions without maps."""
