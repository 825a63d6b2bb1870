"""The result of ``Explainer.evaluate``: scores per image, text and metric, and ways to read them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Metric, Score

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Evaluation"]

_ARROW: Final = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Scores of B images, P texts and M metrics.

    Attributes:
        texts: the P texts.
        metrics: the M metrics by name; each has ``direction``, ``unit`` and ``reference``.
        scores: [B][P][M], in the order of ``metrics``.
        negatives: the negative text of each image and text, [B][P]; None without them.
        method, target: what made the maps.
        bundle: name of the bundle.
        engine: of the forward passes: provider, threads and the like.
        encoded: masked images that were encoded.
        batch: most images of one forward pass.
        wall_ms: of the evaluation, without the explanation.
    """

    texts: tuple[str, ...]
    metrics: dict[str, Metric]
    scores: tuple[tuple[tuple[Score, ...], ...], ...]
    negatives: tuple[tuple[str, ...], ...] | None
    method: str
    target: str
    bundle: str
    engine: dict[str, Any]
    encoded: int
    batch: int
    wall_ms: float

    def score(self, metric: str, image: int = 0, prompt: int = 0) -> Score:
        """One score.

        Raises:
            OptionError: no such metric, image or prompt.
        """
        place = self._place(metric)
        for what, index, length in (("image", image, len(self.scores)), ("prompt", prompt, len(self.texts))):
            if not isinstance(index, int) or not 0 <= index < length:
                raise OptionError(f"no such {what}", got=index, allowed=f"0..{length - 1}")
        return self.scores[image][prompt][place]

    def values(self, metric: str) -> NDArray[np.float64]:
        """Values of a metric, [B, P]; NaN where it is undefined, which the score's flags explain."""
        place = self._place(metric)
        found = [[row[place].value for row in prompts] for prompts in self.scores]
        return np.array([[np.nan if value is None else value for value in row] for row in found], np.float64)

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over images and texts where it is defined; None where it never is."""
        values = self.values(metric)
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if defined.size else None

    def to_dict(self, image: int = 0, *, curves: bool = True) -> dict[str, Any]:
        """What ``evaluate --json`` prints of one image; undefined values are None.

        Args:
            image: index of the image.
            curves: with the points of curves.
        """
        return {
            "bundle": self.bundle,
            "method": self.method,
            "target": self.target,
            "scores": [
                {
                    "text": text,
                    "negative": None if self.negatives is None else self.negatives[image][prompt],
                    "metrics": {name: self._entry(name, image, prompt, curves) for name in self.metrics},
                }
                for prompt, text in enumerate(self.texts)
            ],
            "options": {name: asdict(cast(Any, metric)) for name, metric in self.metrics.items()},
            "engine": self.engine,
            "encoded": self.encoded,
            "batch": self.batch,
            "wall_ms": round(self.wall_ms, 3),
        }

    def table(self, image: int = 0) -> Table:
        """One image's scores for the terminal: a row per metric, a column per text, flags below."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("metric", "unit", *(escape(text) for text in self.texts))
        notes: dict[str, int] = {}
        for name, metric in self.metrics.items():
            cells = [_cell(self.score(name, image, prompt), notes) for prompt in range(len(self.texts))]
            table.add_row(f"{name} {_ARROW[metric.direction]}", metric.unit, *cells)
        if notes:
            table.caption = "\n".join(f"({number}) {note}" for note, number in notes.items())
        return table

    def _entry(self, name: str, image: int, prompt: int, curves: bool) -> dict[str, Any]:
        score, metric = self.score(name, image, prompt), self.metrics[name]
        entry: dict[str, Any] = {"value": score.value, "direction": metric.direction, "unit": metric.unit}
        if score.band is not None:
            entry["band"] = score.band
        if score.flags:
            entry["flags"] = list(score.flags)
        if score.curve and curves:
            entry["curve"] = [list(point) for point in score.curve]
        return entry

    def _place(self, metric: str) -> int:
        if metric not in self.metrics:
            raise OptionError("metric was not evaluated", got=repr(metric), allowed=", ".join(self.metrics))
        return list(self.metrics).index(metric)


def _cell(score: Score, notes: dict[str, int]) -> str:
    """A value with its band and the numbers of its flags."""
    marks = "".join(f" ({notes.setdefault(flag, len(notes) + 1)})" for flag in score.flags)
    value = "undefined" if score.value is None else f"{score.value:.4f}"
    return value + (f" {score.band}" if score.band else "") + marks
