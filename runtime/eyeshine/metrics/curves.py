"""Metrics of a curve: Deletion, Insertion and Degradation, scores while the hottest pixels change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Direction, Score, Vectors, View, check_choice
from eyeshine.metrics.case import MEASURES, Case, Measure, measure, needs_of
from eyeshine.metrics.steps import Steps
from eyeshine.metrics.views import Clean

__all__ = ["Degradation", "Deletion", "Insertion", "auc"]

_RISE = "Petsiuk, Das, Saenko, RISE: Randomized Input Sampling for Explanation, BMVC 2018"


def auc(scores: Sequence[float]) -> float:
    """Area under a curve by trapezoids of equal width, divided by the width of all: in the unit of the scores.

    ``(sum - first/2 - last/2) / (n - 1)``, RISE's rule. Points count alike even where their shares are not evenly
    spaced (the last point of Grad-ECLIP's insertion).
    """
    return (sum(scores) - (scores[0] + scores[-1]) / 2) / (len(scores) - 1)


@dataclass(frozen=True)
class _Curve:
    score: Measure = "cosine"
    steps: Steps = field(default_factory=Steps)

    insert: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("score", self.score, MEASURES)
        if self.steps.insert != self.insert:
            raise OptionError("steps of the other direction", got=self.steps, cure=f"Steps(insert={self.insert}, ...)")

    @property
    def needs(self) -> frozenset[str]:
        return needs_of(self.score)

    @property
    def unit(self) -> str:
        return {"cosine": "cosine", "prob": "probability", "margin": "log odds"}.get(self.score, "0 or 1")

    @property
    def views(self) -> tuple[View, ...]:
        return Clean(), self.steps

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the image that is changed at each point of the curve."""
        return (*self.steps.shares, 1.0) if self.insert else (0.0, *self.steps.shares)

    def seeded(self, seed: int) -> Self:
        """The same with ties, and random colours, drawn from another seed."""
        return replace(self, steps=replace(self.steps, seed=seed))

    def _points(self, case: Case, vectors: Vectors) -> tuple[tuple[float, float], ...]:
        """(share changed, score), the image itself at its end of the curve."""
        clean, changed = (measure(case, self.score, vectors[view]).tolist() for view in self.views)
        scores = [*changed, *clean] if self.insert else [*clean, *changed]
        return tuple(zip(self.shares, scores, strict=True))


@dataclass(frozen=True)
class Deletion(_Curve):
    """Area under the score while the hottest pixels are deleted; the map is right where it falls early.

    Attributes:
        score: what an image is worth, see ``MEASURES``; of the explained text.
        steps: which pixels are deleted when, and what they become.
    """

    name: ClassVar[str] = "deletion"
    direction: ClassVar[Direction] = "lower"
    reference: ClassVar[str] = _RISE

    def read(self, case: Case, vectors: Vectors) -> Score:
        curve = self._points(case, vectors)
        return Score(auc([score for _, score in curve]), curve=curve)


@dataclass(frozen=True)
class Insertion(_Curve):
    """Area under the score while the hottest pixels are shown; the map is right where it rises early.

    Attributes:
        score: what an image is worth, see ``MEASURES``; of the explained text.
        steps: which pixels are shown when, and on which canvas. The image itself is the last point.
    """

    steps: Steps = field(default_factory=lambda: Steps(insert=True, fill="blur"))

    name: ClassVar[str] = "insertion"
    direction: ClassVar[Direction] = "higher"
    reference: ClassVar[str] = _RISE
    insert: ClassVar[bool] = True

    def read(self, case: Case, vectors: Vectors) -> Score:
        curve = self._points(case, vectors)
        return Score(auc([score for _, score in curve]), curve=curve)


@dataclass(frozen=True)
class Degradation(_Curve):
    """Mean score with the hottest 5, 10, 15, 20 and 25 % of the patches occluded.

    MMEL shows such pictures (figures 5 and 6) without a number; the mean of the five scores is ours. The curve begins
    with the image itself, which is not in the mean.

    Attributes:
        score: what an image is worth, see ``MEASURES``; of the explained text.
        steps: how much is occluded, and with what.
    """

    steps: Steps = field(default_factory=lambda: Steps(points=5, until=0.25, by_patch=True))

    name: ClassVar[str] = "degradation"
    direction: ClassVar[Direction] = "lower"
    reference: ClassVar[str] = "MMEL, figures 5 and 6; the number is ours"

    def read(self, case: Case, vectors: Vectors) -> Score:
        curve = self._points(case, vectors)
        return Score(sum(score for _, score in curve[1:]) / self.steps.count, curve=curve)
