"""What one pass found, and how faithful the maps of the concepts are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eyeshine.concept import load_candidates
from eyeshine.dual.options import DualOptions
from eyeshine.explanation import Explanation
from eyeshine_kernels.products import matmul

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.metrics import Evaluation

__all__ = ["Found", "evaluate_concepts", "negatives"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """What one pass found.

    Attributes:
        texts: concepts and candidates, P.
        odds: float32 [P], see ``presence``.
        maps: float32 [P, h, w], at least 0.
        tau: see ``DualOptions``.
    """

    texts: list[str]
    odds: Array
    maps: Array
    tau: float

    def odds_of(self, text: str) -> float:
        """Log odds of one text."""
        return float(self.odds[self.texts.index(text)])


def evaluate_concepts(
    explainer: Explainer, explanation: Explanation, own: list[str], found: Found, options: DualOptions
) -> Evaluation:
    """Concept Drop and Negative Suppression of every concept; ``own`` are their texts, first in the explanation."""
    from eyeshine.metrics import evaluate

    count = len(own)
    part = replace(
        explanation,
        texts=tuple(own),
        maps=explanation.maps[:, :count],
        similarities=explanation.similarities[:, :count],
    )
    opposite = negatives(explainer, own, found, options)
    return evaluate(explainer, part, metrics=("concept_drop", "negative_suppression"), negative=opposite)


def negatives(explainer: Explainer, own: list[str], found: Found, options: DualOptions) -> list[str]:
    """For every text the present candidate least like it (section III-F); where none is present, the likeliest."""
    candidates = load_candidates(options.candidates)
    cosines = matmul(explainer.encode_texts(own), explainer.encode_texts(candidates).T)
    chosen = []
    for text, row in zip(own, cosines, strict=True):
        others = [(float(row[k]), found.odds_of(c), c) for k, c in enumerate(candidates) if c != text]
        there = [other for other in others if other[1] >= options.thresholds.presence]
        chosen.append(min(there)[2] if there else max(others, key=lambda other: other[1])[2])
    return chosen
