"""How a dual request is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eyeshine.concept import load_candidates
from eyeshine.dual.thresholds import Thresholds
from eyeshine.errors import OptionError
from eyeshine.methods import AnyMethod

__all__ = ["DualOptions"]

_FEWEST: Final = 4  # candidates: their lower half stands for what is absent


@dataclass(frozen=True, kw_only=True)
class DualOptions:
    """How a dual request is answered.

    Attributes:
        method: how to explain, see ``eyeshine methods``. The thresholds were calibrated with grad_eclip.
        candidates: what may be in the image: "street", "coco", a file with one text a line, or texts, 4 or more.
        tau: 0..1, both excluded; share of a map's largest value from which a patch counts as hot.
        metrics: score the maps of both sides by Concept Drop and Negative Suppression. Takes a forward pass of two
            masked images for every concept, and one more; the verdict does not read it.
        ask_blind: ask a responder a second time, without the image, whether it guesses.
        thresholds: of the verdict.

    Raises:
        OptionError: unknown candidates or fewer than 4, or ``tau`` outside its range.
        TextError: a blank candidate.
    """

    method: str | AnyMethod = "grad_eclip"
    candidates: str | Path | Sequence[str] = "street"
    tau: float = 0.4
    metrics: bool = False
    ask_blind: bool = True
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        listed = load_candidates(self.candidates)
        if len(listed) < _FEWEST:
            raise OptionError("too few candidates", got=len(listed), allowed=f"{_FEWEST} and more")
        if isinstance(self.tau, bool) or not isinstance(self.tau, float | int) or not 0 < self.tau < 1:
            raise OptionError("tau is a share of a map's range", got=repr(self.tau), allowed="0..1, both excluded")
        object.__setattr__(self, "candidates", listed)
