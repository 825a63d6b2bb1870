"""Whether deletion and insertion run as fast as the engine encodes: each beside the bare engine on as many images.

On the model's input the bare engine gets images that are ready; on the photo's canvas, where the protocol prepares
every image anew, it gets photos, and prepares them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate import Facts, check
from benchmarks.judge import timing_rows
from benchmarks.registry import CASES, GROUPS
from benchmarks.rows import Row
from benchmarks.timing import Plan, interleave
from eyeshine import Explainer, roads
from eyeshine.datasets import Roads
from eyeshine.metrics import Deletion, Evaluation, Insertion, Metric, Steps, evaluate
from eyeshine.metrics.presets import PRESETS
from eyeshine.verify import TOLERANCES

__all__ = ["MAX_BATCH", "PROTOCOLS", "rows"]

MAX_BATCH: Final = 32
"""Images of a forward pass, the default of ``evaluate``."""
_SCENE: Final = roads.HELD_OUT_FROM + 900_000
PROTOCOLS: Final[dict[str, dict[str, Metric]]] = {
    "throughput-224": PRESETS["rise"],
    "throughput-10": {
        "deletion": Deletion("prob", Steps(points=10)),
        "insertion": Insertion("prob", Steps(insert=True, fill="blur", points=10)),
    },
    "throughput-photo": {name: PRESETS["gradeclip-imagenet"][name] for name in ("deletion@1", "insertion@1")},
}
"""What is evaluated, by group."""


def rows(origin: Mapping[str, Any], model: str, group: str, explainer: Explainer, plan: Plan) -> list[Row]:
    """The engine's row and the evaluation's, on one held-out road scene; times are for one encoded image.

    Args:
        origin: fields of ``Row`` that are the same for the whole run.
        model: short name.
        group: a key of ``PROTOCOLS``.
        explainer: of the embedded model.
        plan: how long.

    Raises:
        GateError: scores, or embeddings, in batches are not those of images alone.
    """
    engine, curves = GROUPS[group].cases
    metrics, labels = PROTOCOLS[group], [roads.article(label) for label in roads.LABELS]
    [content] = [sample.open() for sample in Roads(1, first=_SCENE).samples()]
    explanation = explainer.explain(content.image, content.texts)
    precision = explainer.options.precision(explainer.bundle.manifest.precision)
    tolerance = TOLERANCES[precision]

    def evaluation(max_batch: int = MAX_BATCH) -> Evaluation:
        return evaluate(explainer, explanation, metrics=metrics, labels=labels, max_batch=max_batch)

    batched, alone = evaluation(), evaluation(1)
    got, expected = ({name: np.array(each.score(name).curve) for name in metrics} for each in (batched, alone))
    errors = {curves: check(curves, got, expected, tolerance)}
    on_photo = any(getattr(view, "canvas", "input") == "native" for m in metrics.values() for view in m.views)
    encode, errors[engine] = _engine(explainer, engine, batched.encoded, content.image if on_photo else None, tolerance)
    timings = interleave({engine: encode, curves: evaluation}, plan)
    facts = {
        case: Facts(CASES[case], batched.engine["provider"], precision, explainer.bundle.hash, repeats=batched.encoded)
        for case in (engine, curves)
    }
    return timing_rows(origin, model, group, timings, facts, errors)


def _engine(
    explainer: Explainer, name: str, count: int, photo: NDArray[np.uint8] | None, tolerance: float
) -> tuple[Callable[[], None], float]:
    """The bare session on so many images, in full batches and a rest, and how far a batch is from images alone."""
    session, prepare = explainer._session("encode"), explainer.preprocess.prepare
    batch = np.random.default_rng(0).random((min(MAX_BATCH, count), 3, *explainer.preprocess.size), dtype=np.float32)

    def embeddings(pixels: NDArray[np.float32]) -> NDArray[Any]:
        return session.run({"pixels": pixels}, ["embedding"]).outputs["embedding"]

    alone = np.concatenate([embeddings(pixels[None]) for pixels in batch])
    error = check(name, {"embedding": embeddings(batch)}, {"embedding": alone}, tolerance)

    def encode() -> None:
        for start in range(0, count, MAX_BATCH):
            filled = batch[: min(MAX_BATCH, count - start)]
            if photo is not None:
                for pixels in filled:
                    pixels[:] = prepare(photo).pixels
            embeddings(filled)

    return encode, error
