"""From a started call to an explanation of its images: by one run, on the host or the GPU, or by many passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eyeshine.explanation import Explanation, check_finite
from eyeshine.methods import by_passes
from eyeshine.pipeline import Call, Pipeline, like
from eyeshine_kernels.products import matmul

if TYPE_CHECKING:
    from eyeshine.device import DeviceExplanation

__all__ = ["explain_cotangents", "explain_images", "explain_on_device"]

Array = NDArray[np.float32]


def explain_images(
    pipeline: Pipeline, call: Call, *, max_batch: int, progress: bool
) -> tuple[Explanation, Array | None]:
    """Maps and similarities on the host; and the images' unit embeddings [B, E], where the call wants them.

    Args:
        pipeline: of the bundle.
        call: started on it.
        max_batch, progress: for methods by passes.

    Raises:
        EngineError: the engine failed, or a map is not finite.
    """
    method, count = call.request.method, len(call.request.texts)
    if by_passes(method):
        maps, embedding = pipeline.passes(call, method, max_batch=max_batch, progress=progress)
        similarities = matmul(embedding, np.asarray(call.inputs["text"], np.float32)[:count].T)
        check_finite(maps, method.name)
        facts = pipeline.facts(call, call.session.provider)
        return Explanation(maps=maps, similarities=similarities, **facts), embedding
    if pipeline.backend == "triton":
        on_device, vectors = _run_on_device(pipeline, call)
        return on_device.to_host(), vectors
    outputs, provider = pipeline.run(call)
    maps = pipeline.maps(call, outputs)
    check_finite(maps, method.name)
    call.clock.lap("maps")
    facts = pipeline.facts(call, provider)
    found = Explanation(maps=maps, similarities=outputs["similarity"][:, :count], **facts)
    return found, outputs["embedding"] if call.embedding else None


def explain_on_device(pipeline: Pipeline, call: Call) -> DeviceExplanation:
    """The same by kernels, left on the GPU; maps are not looked at."""
    return _run_on_device(pipeline, call)[0]


def _run_on_device(pipeline: Pipeline, call: Call) -> tuple[DeviceExplanation, Array | None]:
    from eyeshine.device import DeviceExplanation, wait

    with call.session.hold():
        outputs, provider = pipeline.run(call)
        maps = pipeline.maps(call, outputs)
        similarities = outputs["similarity"][:, : len(call.request.texts)].clone()
        embedding = np.array(outputs["embedding"].cpu().numpy()) if call.embedding else None
        wait(maps)
    call.clock.lap("maps")
    return DeviceExplanation(maps=maps, similarities=similarities, **pipeline.facts(call, provider)), embedding


def explain_cotangents(pipeline: Pipeline, call: Call, gradient: Array, scores: Array) -> Explanation:
    """The same with a gradient [B, P, K, D] and scores [B, P] from outside.

    Raises:
        EngineError: the engine failed, or a map is not finite.
    """
    with call.session.hold():
        outputs, provider = pipeline.run(call)
        maps = pipeline.maps(call, {**outputs, "gradient": like(next(iter(outputs.values())), gradient)})
        on_host = maps if isinstance(maps, np.ndarray) else maps.cpu().numpy()
    check_finite(on_host, call.request.method.name)
    call.clock.lap("maps")
    return Explanation(maps=on_host, similarities=scores, **pipeline.facts(call, provider))
