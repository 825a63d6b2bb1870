"""The result of a dual request: for people a picture, for programs a record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from eyeshine.dual.comparison import Comparison
from eyeshine.dual.side import Side
from eyeshine.dual.verdict import Signals, Verdict
from eyeshine.explanation import Explanation

if TYPE_CHECKING:
    from PIL.Image import Image

    from eyeshine.metrics import Evaluation

__all__ = ["Dual"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Dual:
    """What was asked and what was answered, explained and compared.

    Attributes:
        asked, said: the prompt and the answer.
        blind_answer: what was answered without the image; None if nobody was asked.
        comparison: of the maps of both, each the mean of its concepts' maps.
        signals: what the verdict was read from.
        verdict: and its reasons.
        explanation: of all concepts and candidates, one pass.
        evaluation: Concept Drop and Negative Suppression of every concept; None where left out.
        timings_ms: responder, explanation, verdict, metrics, total; milliseconds.
    """

    asked: Side
    said: Side
    blind_answer: str | None
    comparison: Comparison
    signals: Signals
    verdict: Verdict
    explanation: Explanation
    evaluation: Evaluation | None
    timings_ms: dict[str, float]

    def score(self, metric: str, text: str) -> float | None:
        """A metric's value for a concept's text; None where metrics were left out or it is not defined."""
        if self.evaluation is None:
            return None
        return self.evaluation.score(metric, 0, self.evaluation.texts.index(text)).value

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict.kind,
            "name": self.verdict.name,
            "reasons": list(self.verdict.reasons),
            "prompt": self._side(self.asked),
            "answer": self._side(self.said),
            "blind_answer": self.blind_answer,
            "maps": asdict(self.comparison),
            "signals": asdict(self.signals),
            "bundle": self.explanation.bundle,
            "method": self.explanation.method,
            "engine": self.explanation.engine,
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
        }

    def figure(self) -> Image:
        """One picture: the image, both maps, their difference, the numbers and the verdict."""
        from eyeshine.dual.figure import figure

        return figure(self)

    def _side(self, side: Side) -> dict[str, Any]:
        concepts = [
            {
                "text": concept.text,
                "scenery": concept.scenery,
                "presence_log_odds": float(odds),
                "shape": asdict(shape),
                "concept_drop": self.score("concept_drop", concept.text),
                "negative_suppression": self.score("negative_suppression", concept.text),
            }
            for concept, odds, shape in zip(side.concepts, side.presence, side.shapes, strict=True)
        ]
        return {"text": side.text, "concepts": concepts, "unknown": list(side.unknown)}
