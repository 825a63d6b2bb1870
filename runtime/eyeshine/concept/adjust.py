"""Dynamic adjustment of maps from the two metrics of the paper, which prints no formula: this one is ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.explanation import Explanation, Facts
from eyeshine.images import ImageLike
from eyeshine.methods import AnyMethod
from eyeshine.texts import check_texts
from eyeshine.upsample import normalize_maps

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["AdjustOptions", "adjust", "adjusted_map"]

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AdjustOptions:
    """Between which values of Negative Suppression the negative map is taken away.

    Attributes:
        low: up to here it is taken away whole (the paper's "fails").
        high: from here on not at all (the paper's "distinguishes").

    Raises:
        OptionError: not two finite numbers, the first below the second.
    """

    low: float = 2.0
    high: float = 5.0

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise OptionError("bounds of an adjustment are numbers", got=repr(value))
        if not self.low < self.high:
            raise OptionError("bounds of an adjustment", got=f"{self.low}, {self.high}", allowed="low below high")


def adjusted_map(positive: Array, negative: Array, drop: float, suppression: float, options: AdjustOptions) -> Array:
    """``minmax(ReLU(H+ (1 + clip(CD, 0, 1) H+) - clip((high - NS) / (high - low), 0, 1) H-))``.

    The better the hot region holds the concept (Concept Drop), the more hot patches stand out; the worse the map tells
    it from the negative text (Negative Suppression), the more of that text's map is taken away.

    Args:
        positive, negative: [h, w] in 0..1, the maps of the text and of its negative text.
        drop: Concept Drop, a fraction.
        suppression: Negative Suppression, a logit margin.
        options: bounds.

    Returns:
        [h, w] in 0..1; all zeros where nothing is left.
    """
    amplified = positive * (1 + min(max(drop, 0.0), 1.0) * positive)
    share = min(max((options.high - suppression) / (options.high - options.low), 0.0), 1.0)
    left = np.maximum(amplified - share * negative, 0).astype(np.float32)
    brought: Array = normalize_maps(left[None])[0]
    return brought


def adjust(
    explainer: Explainer,
    images: ImageLike | Sequence[ImageLike],
    texts: Sequence[str],
    negative: str | Sequence[str],
    *,
    method: str | AnyMethod = "concept_attribution",
    options: AdjustOptions | None = None,
    truncate: bool = False,
) -> Explanation:
    """Explain texts, score the maps by Concept Drop and Negative Suppression, and adjust them by the scores.

    Args:
        explainer: explains and scores.
        images: as for ``Explainer.explain``.
        texts: the P texts.
        negative: a negative text for all texts, or one for each.
        method: what makes the maps.
        options: bounds of Negative Suppression.
        truncate: accept texts that are longer than the context and cut them.

    Returns:
        An explanation with ``adjusted=True``: metrics refuse it, since it was made to please them. A map whose scores
        are undefined is left as it was. ``details["adjustment"]`` holds the scores of the maps before, [B][P].

    Raises:
        OptionError: as many negative texts as texts are needed, or one; and as ``explain`` and ``evaluate``.
    """
    from eyeshine.metrics import evaluate

    chosen, listed = options or AdjustOptions(), check_texts(texts)
    against = [negative] * len(listed) if isinstance(negative, str) else check_texts(negative, "negative text")
    if len(against) != len(listed):
        raise OptionError("negative texts do not fit the texts", got=len(against), allowed=f"1 or {len(listed)}")
    distinct = list(dict.fromkeys(against))  # each costs a dense VJP of its own in the deep graph
    both = explainer.explain(images, [*listed, *distinct], method=method, truncate=truncate)
    plain = _part(both, len(listed))
    scores = evaluate(
        explainer, plain, metrics=["concept_drop", "negative_suppression"], negative=against, truncate=truncate
    )
    maps = plain.maps.copy()
    rows: list[list[dict[str, Any]]] = []
    for b in range(len(maps)):
        levels = normalize_maps(both.maps[b])
        rows.append([])
        for p, text in enumerate(listed):
            drop, suppression = (scores.score(name, b, p).value for name in ("concept_drop", "negative_suppression"))
            if drop is not None and suppression is not None:
                maps[b, p] = adjusted_map(
                    levels[p], levels[len(listed) + distinct.index(against[p])], drop, suppression, chosen
                )
            rows[b].append(
                {"text": text, "negative": against[p], "concept_drop": drop, "negative_suppression": suppression}
            )
    return replace(plain, maps=maps, adjusted=True, details={**plain.details, "adjustment": rows})


def _part(explanation: Explanation, count: int) -> Explanation:
    """The first ``count`` texts of an explanation."""
    details: dict[str, Any] = dict(explanation.details)
    if "heads" in details:
        heads = details["heads"]
        arrays = ("indices", "scores", "relevance", "standardised")
        details["heads"] = replace(heads, **{name: getattr(heads, name)[:, :count] for name in arrays})
    kept = {field.name: getattr(explanation, field.name) for field in fields(Facts)}
    kept |= {"texts": explanation.texts[:count], "details": details}
    return Explanation(maps=explanation.maps[:, :count], similarities=explanation.similarities[:, :count], **kept)
