"""From a checked request to maps: which graph, which session, what the method reads, what a result says beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.concept.contrast import Contrast, contrast_target
from eyeshine.engine import EngineOptions, Session
from eyeshine.errors import EngineError, OptionError
from eyeshine.methods import BlockSignals, ConceptAttribution
from eyeshine.request import Clock, Request
from eyeshine.sessions import Sessions
from eyeshine.signals import last_blocks
from eyeshine.texts import TextEncoder
from eyeshine_kernels.backend import KernelError, interpreting, resolve

__all__ = ["Backend", "Call", "Pipeline", "check_backend", "like"]

Backend = Literal["reference", "triton"]


@dataclass(frozen=True)
class Call:
    """A request with the session that will run it.

    Attributes:
        request: what is asked for.
        graph: name of the graph.
        session: of the graph.
        inputs: of the graph.
        outputs: that are asked of it.
        clock: of the call.
        details: what the result will say beyond its maps.
    """

    request: Request
    graph: str
    session: Session
    inputs: dict[str, NDArray[np.generic]]
    outputs: list[str]
    clock: Clock
    details: dict[str, Any] = field(default_factory=dict)


class Pipeline:
    """Runs requests on one bundle. May be used from several threads.

    Args:
        bundle: an opened bundle.
        options: of the engine.
        backend: what computes maps.
        sessions: of the bundle on that engine.
        texts: texts to vectors.
    """

    def __init__(
        self, bundle: Bundle, options: EngineOptions, backend: Backend, sessions: Sessions, texts: TextEncoder
    ) -> None:
        self._bundle, self._options, self._backend = bundle, options, backend
        self._sessions, self._texts = sessions, texts
        self._projections: dict[int, Any] = {}

    def start(self, request: Request, clock: Clock, *, truncate: bool) -> Call:
        """Everything up to the run of the graph: contrast, text vectors, the cheapest graph, its session."""
        details: dict[str, Any] = {}
        if request.contrast is not None:
            request, details["contrast"] = self._contrasted(request, truncate)
            clock.lap("contrast")
        vectors = self._texts.encode(request.target.prompts, truncate=truncate)
        clock.lap("text")
        graph = self._bundle.cheapest(request.method.signals | {"similarity"}, request.method.blocks)
        session = self._sessions.get(graph)
        clock.lap("load")
        outputs = ["similarity", *sorted(request.method.signals)]
        return Call(request, graph, session, {"pixels": request.pixels, "text": vectors}, outputs, clock, details)

    def start_without_text(self, request: Request, clock: Clock) -> Call:
        """The same for a request whose gradient comes from outside: no signal but the gradient depends on a text."""
        signals = request.method.signals - {"gradient"}
        graph = self._bundle.cheapest(signals, request.method.blocks)
        session = self._sessions.get(graph)
        clock.lap("load")
        inputs: dict[str, NDArray[np.generic]] = {"pixels": request.pixels}
        if "text" in session.input_dims:
            inputs["text"] = np.ones((len(request.texts), self._bundle.manifest.model.embed_dim), np.float32)
        return Call(request, graph, session, inputs, sorted(signals), clock)

    def run(self, call: Call) -> tuple[dict[str, Any], str]:
        """Outputs of the graph where the backend computes maps from them, and the provider that ran."""
        if self._backend == "reference":
            run = call.session.run(call.inputs, call.outputs)
            outputs: dict[str, Any] = {**run.outputs}
            provider = run.provider
        else:
            from eyeshine.device import tensors

            on_device = call.session.run_on_device(call.inputs, call.outputs)
            outputs, provider = {**tensors(on_device.outputs)}, on_device.provider
        call.clock.lap("graph")
        return outputs, provider

    def maps(self, call: Call, outputs: Mapping[str, Any]) -> Any:
        """Maps [B, P, h, w] from the outputs of a graph, of their kind; what else the method says goes to the call."""
        request, method = call.request, call.request.method
        read = {name: _whole(last_blocks(name, outputs[name], method.blocks)) for name in method.signals}
        if "gradient" in read:
            read["gradient"] = request.target.combine(read["gradient"])
        if "text" in method.needs:
            read["text"] = like(outputs["similarity"], call.inputs["text"][: len(request.texts)])
        if "head_projection" in method.needs:
            read["head_projection"] = self._head_projection(method.blocks, outputs["similarity"])
        signals = BlockSignals(**read, backend=self._backend, depth=self._bundle.manifest.model.layers)
        if isinstance(method, ConceptAttribution):
            maps, call.details["heads"] = method.attribute(signals)
        else:
            maps = method.maps(signals, len(request.texts))
        return maps.reshape(len(request.photos), len(request.texts), *self._bundle.manifest.grid)

    def facts(self, call: Call, provider: str, fell_back: str | None) -> dict[str, Any]:
        """What a result says beside its maps; ``fell_back`` is why another engine than the wanted one ran."""
        request = call.request
        engine = {**self._options.metadata(), "provider": provider, "graph": call.graph, "backend": self._backend}
        return {
            "texts": request.texts,
            "method": request.method.name,
            "target": request.target.name,
            "images": request.photos,
            "crops": request.crops,
            "bundle": self._bundle.name,
            "engine": engine if fell_back is None else {**engine, "fell_back": fell_back},
            "timings_ms": call.clock.timings_ms(),
            "background": getattr(request.method, "background", 0.0),
            "details": call.details,
        }

    def _contrasted(self, request: Request, truncate: bool) -> tuple[Request, list[list[Contrast]]]:
        """The request with a contrast chosen for each image and text, and the choices."""
        assert request.contrast is not None
        images = self._sessions.get("encode").run({"pixels": request.pixels}, ["embedding"]).outputs["embedding"]
        encode = partial(self._texts.encode, truncate=truncate)
        scale = self._bundle.manifest.model.logit_scale
        target, choices = contrast_target(request.texts, images, encode, request.contrast, scale)
        return replace(request, target=target), choices

    def _head_projection(self, blocks: int, beside: Any) -> Any:
        """The bundle's constant, of the kind of ``beside`` and where it is; read once."""
        if blocks not in self._projections:
            self._projections[blocks] = like(beside, self._bundle.head_projection(blocks))
        return self._projections[blocks]


def _whole(array: Any) -> Any:
    """As it is; a tensor that is a part of another in one piece, which kernels need."""
    return array if isinstance(array, np.ndarray) else array.contiguous()


def like(beside: Any, array: NDArray[Any]) -> Any:
    """The array as it is, or as a torch tensor where ``beside`` is one."""
    return array if isinstance(beside, np.ndarray) else beside.new_tensor(array)


def check_backend(backend: Backend, options: EngineOptions) -> Backend:
    """The backend, if it can run on what the engine leaves.

    Raises:
        OptionError: an unknown one, or "triton" with an engine that is not on a GPU.
        EngineError: the kernels cannot run here; the message names what to install.
    """
    if backend not in ("reference", "triton"):
        raise OptionError("unknown backend", got=repr(backend), allowed="reference, triton")
    try:
        resolve(backend)
    except KernelError as error:
        raise EngineError("the Triton kernels cannot run here", got=str(error)) from error
    if backend == "triton" and options.device_type != "cuda" and not interpreting():
        raise OptionError(
            "backend triton needs an engine on the GPU", got=f"provider {options.engine}", allowed="cuda, tensorrt"
        )
    return backend
