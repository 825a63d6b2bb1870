"""From a started call to an explanation of its images: by one run, on the host or the GPU, or by many passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eyeshine.explanation import Explanation, check_finite
from eyeshine.methods import by_passes
from eyeshine.pipeline import Call, Pipeline, like

if TYPE_CHECKING:
    from eyeshine.device import DeviceExplanation

__all__ = ["explain_cotangents", "explain_images", "explain_on_device"]

Array = NDArray[np.float32]


def explain_images(pipeline: Pipeline, call: Call, *, max_batch: int, progress: bool) -> Explanation:
    """Maps and similarities on the host; ``max_batch`` and ``progress`` are for methods by passes.

    Raises:
        EngineError: the engine failed, or a map is not finite.
    """
    method = call.request.method
    if by_passes(method):
        maps, similarities = pipeline.passes(call, method, max_batch=max_batch, progress=progress)
        check_finite(maps, method.name)
        return Explanation(maps=maps, similarities=similarities, **pipeline.facts(call, call.session.provider))
    if pipeline.backend == "triton":
        return explain_on_device(pipeline, call).to_host()
    outputs, provider = pipeline.run(call)
    maps = pipeline.maps(call, outputs)
    check_finite(maps, method.name)
    call.clock.lap("maps")
    similarities = outputs["similarity"][:, : len(call.request.texts)]
    return Explanation(maps=maps, similarities=similarities, **pipeline.facts(call, provider))


def explain_on_device(pipeline: Pipeline, call: Call) -> DeviceExplanation:
    """The same by kernels, left on the GPU; maps are not looked at."""
    from eyeshine.device import DeviceExplanation, wait

    with call.session.hold():
        outputs, provider = pipeline.run(call)
        maps = pipeline.maps(call, outputs)
        similarities = outputs["similarity"][:, : len(call.request.texts)].clone()
        wait(maps)
    call.clock.lap("maps")
    return DeviceExplanation(maps=maps, similarities=similarities, **pipeline.facts(call, provider))


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
