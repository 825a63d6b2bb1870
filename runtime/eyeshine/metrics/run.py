"""From an explanation to an evaluation: all masked images of a request, in shared batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, tee
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.encoding import Encoder
from eyeshine.errors import OptionError
from eyeshine.explanation import Explanation
from eyeshine.metrics.base import Metric, Score, View
from eyeshine.metrics.case import Case
from eyeshine.metrics.evaluation import Evaluation
from eyeshine.metrics.presets import choose_metrics
from eyeshine.metrics.truth import Truth, cases

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["evaluate"]

Array = NDArray[np.float32]

_FLAT = "the map has no contrast: it says nothing about where"


def evaluate(
    explainer: Explainer,
    explanation: Explanation,
    *,
    metrics: Any = None,
    scored: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    masks: Any = None,
    max_batch: int = 32,
    truncate: bool = False,
) -> Evaluation:
    """Score the maps of an explanation.

    Masked images are made one at a time and encoded ``max_batch`` at a time, those of several metrics, texts and images
    together; what is held is one batch and the embeddings of one map.

    Args:
        explainer: the one that explained.
        explanation: what it explained.
        metrics: a name of ``METRICS`` or ``PRESETS``, a metric, or several; or metrics by names of your own. By default
            every metric that needs no more than is passed here, but for curves: they take up to hundreds of passes.
        scored: what the scores are of, in place of the explained texts: one for all, or one for each. A protocol that
            explains the predicted label and scores the true one needs it.
        negative: a negative text for all texts, or one for each; by default the contrasts of an explanation that chose
            them by itself (``against="auto"``).
        labels: the label set of scores by probability and rank; a text that is not in it is added for itself.
        masks: bool, in the photo's size: [H, W], or [K, H, W] for K objects; of one image, one array for all texts or a
            list of one for each; of several images, a list of that.
        max_batch: most images of one forward pass, 1..4096; the engine's nearest size is taken.
        truncate: accept texts that are longer than the context and cut them.

    Raises:
        OptionError: unknown metrics, one that needs more than was passed, masks of another shape; maps that are not
            on the host, of another bundle, or adjusted by metrics.
        TextError: a negative text or a label that cannot be encoded.
        EngineError: the engine failed, or an embedding is not finite.
    """
    started = perf_counter()
    if not isinstance(explanation, Explanation):
        raise OptionError("not an explanation on the host", got=type(explanation).__name__, cure=".to_host()")
    if getattr(explanation, "adjusted", False):
        raise OptionError(
            "a map that was adjusted by metrics cannot be scored by metrics: it was tuned to them",
            got="an adjusted explanation", cure="evaluate the explanation that it was made from",
        )  # fmt: skip
    if explanation.bundle != explainer.bundle.name:
        raise OptionError("explained by another bundle", got=explanation.bundle, allowed=explainer.bundle.name)
    encoder = explainer.encoder(max_batch)
    truth = Truth.of(explanation, negative, labels, masks, scored)
    chosen = choose_metrics(metrics, truth.given)
    found = cases(explainer, explanation, truth, truncate=truncate)
    rows = list(_score(found, list(chosen.values()), encoder, len(explanation.texts)))
    count = len(explanation.texts)
    return Evaluation(
        texts=explanation.texts,
        metrics=chosen,
        scores=tuple(tuple(rows[start : start + count]) for start in range(0, len(rows), count)),
        negatives=truth.negatives,
        method=explanation.method,
        target=explanation.target,
        bundle=explanation.bundle,
        engine=encoder.facts,
        encoded=encoder.encoded,
        batch=encoder.batch,
        wall_ms=(perf_counter() - started) * 1e3,
    )


def _score(found: Iterator[Case], metrics: list[Metric], encoder: Encoder, prompts: int) -> Iterator[tuple[Score, ...]]:
    """The scores of each case. One iterator over the cases runs ahead to fill batches, the other reads embeddings."""
    views = list(dict.fromkeys(view for metric in metrics for view in metric.views))
    per_map = [view for view in views if view.uses_map]
    ahead, behind = (enumerate(part) for part in tee(found))
    vectors = encoder.stream(
        frame
        for number, case in ahead
        for view in (per_map if number % prompts else views)
        for frame in view.frames(case)
    )
    known: dict[View, Array] = {}
    for number, case in behind:
        for view in per_map if number % prompts else views:
            known[view] = np.stack(list(islice(vectors, view.count)))
        scores = (metric.read(case, known) for metric in metrics)
        yield tuple(replace(score, flags=(_FLAT, *score.flags)) if case.is_flat else score for score in scores)
