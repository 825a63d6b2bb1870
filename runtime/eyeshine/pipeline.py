"""From a checked request to maps: which graph, which session, what the method reads, what a result says beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.backend import Backend
from eyeshine.bundle import Bundle
from eyeshine.concept.contrast import contrast_target
from eyeshine.encoding import BundleModel, Encoder
from eyeshine.engine import EngineOptions, Session
from eyeshine.errors import OptionError
from eyeshine.methods import BlockSignals, ConceptAttribution, HeadDecomposition, PassesMethod, graph_method
from eyeshine.methods.passes import Subject
from eyeshine.request import Clock, Request
from eyeshine.sessions import Sessions
from eyeshine.signals import SIGNALS, field_of, last_blocks
from eyeshine.texts import TextEncoder
from eyeshine_kernels.products import matmul

__all__ = ["Call", "Pipeline", "like"]

Array = NDArray[np.float32]


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
        vectors: unit vectors [J, E] of the target's texts, the explained ones first; None without texts.
        embedding: whether the images' own vectors are wanted beside the maps.
    """

    request: Request
    graph: str
    session: Session
    inputs: dict[str, NDArray[np.generic]]
    outputs: list[str]
    clock: Clock
    details: dict[str, Any] = field(default_factory=dict)
    vectors: Array | None = None
    embedding: bool = False


class Pipeline:
    """Runs requests on one bundle. May be used from several threads.

    Args:
        bundle: an opened bundle.
        options: of the engine.
        backend: what computes maps.
        sessions: of the bundle on that engine.
        texts: texts to vectors.

    Attributes:
        backend: what computes maps.
        fell_back: why another engine than the wanted one runs, for results; None where the wanted one does.
    """

    def __init__(
        self, bundle: Bundle, options: EngineOptions, backend: Backend, sessions: Sessions, texts: TextEncoder
    ) -> None:
        self._bundle, self._options, self.backend = bundle, options, backend
        self._sessions, self._texts = sessions, texts
        self.fell_back: str | None = None
        self._projections: dict[int, Any] = {}

    def start(self, request: Request, clock: Clock, *, truncate: bool, embedding: bool = False) -> Call:
        """Everything up to the run of the graph: contrast, text vectors, the cheapest graph, its session."""
        method = graph_method(request.method)
        request, details = self._contrasted(request, clock, truncate)
        vectors = self._texts.encode(request.target.prompts, truncate=truncate)
        clock.lap("text")
        graph = self._bundle.cheapest(method.signals, method.blocks, any_size=self._any_size(request))
        session = self._sessions.get(graph)
        clock.lap("load")
        info, inputs = self._bundle.graph(graph), {"pixels": request.pixels, "text": vectors}
        if "target" in info.inputs:
            scale = self._bundle.manifest.model.logit_scale if "logits" in method.needs else 1.0
            inputs["target"] = np.float32(scale) * request.target.vectors(vectors)
        taken: dict[str, NDArray[np.generic]] = {name: inputs[name] for name in info.inputs}
        beside = ["similarity"] if "similarity" in info.outputs else []
        asked = [*beside, *(["embedding"] if embedding or not beside else []), *sorted(method.signals)]
        return Call(request, graph, session, taken, asked, clock, details, vectors, embedding)

    def start_passes(self, request: Request, method: PassesMethod, clock: Clock, *, truncate: bool) -> Call:
        """The same for a method by passes: every graph that it runs is there, and its sessions are open."""
        if self._any_size(request):
            raise OptionError(
                f"method {method.name} runs images of the model's own size",
                got=f"{request.pixels.shape[2]}x{request.pixels.shape[3]}", cure='resize "squash" or "shortest"',
            )  # fmt: skip
        for graph in sorted(method.graphs):
            self._bundle.graph(graph)
        request, details = self._contrasted(request, clock, truncate)
        vectors = self._texts.encode(request.target.prompts, truncate=truncate)
        clock.lap("text")
        session = self._sessions.get("encode")
        for graph in sorted(method.graphs):
            self._sessions.get(graph)
        clock.lap("load")
        inputs: dict[str, NDArray[np.generic]] = {"pixels": request.pixels, "text": vectors}
        return Call(request, "encode", session, inputs, ["embedding"], clock, details)

    def start_without_text(self, request: Request, clock: Clock) -> Call:
        """The same for a request whose gradient comes from outside: no signal but the gradient depends on a text."""
        method = graph_method(request.method)
        signals = method.signals - {"gradient"}
        graph = self._bundle.cheapest(signals, method.blocks, any_size=self._any_size(request))
        session = self._sessions.get(graph)
        clock.lap("load")
        inputs: dict[str, NDArray[np.generic]] = {"pixels": request.pixels}
        if "text" in session.input_dims:
            inputs["text"] = np.ones((len(request.texts), self._bundle.manifest.model.embed_dim), np.float32)
        return Call(request, graph, session, inputs, sorted(signals), clock)

    def run(self, call: Call) -> tuple[dict[str, Any], str]:
        """Outputs of the graph where the backend computes maps from them, and the provider that ran; a similarity that
        the graph does not yield is made of its embedding."""
        target = call.inputs.get("target")
        if target is None or target.ndim == 2:
            outputs, provider = self._run(call, call.inputs)
        else:  # every image has its own, and the graph takes one for all
            parts: dict[str, list[Any]] = {name: [] for name in call.outputs}
            size = self._options.nearest("B", 1)  # a captured engine runs one size: copies fill it up
            for pixels, own in zip(call.inputs["pixels"], target, strict=True):
                outputs, provider = self._run(call, {"pixels": np.repeat(pixels[None], size, 0), "target": own})
                for name, part in parts.items():
                    part.append(_copy(outputs[name][:1]))
            outputs = {name: _joined(part) for name, part in parts.items()}
        if call.vectors is not None and "similarity" not in outputs:
            outputs["similarity"] = matmul(outputs["embedding"], like(outputs["embedding"], call.vectors).T)
        call.clock.lap("graph")
        return outputs, provider

    def _run(self, call: Call, inputs: Mapping[str, NDArray[np.generic]]) -> tuple[dict[str, Any], str]:
        if self.backend == "reference":
            run = call.session.run(inputs, call.outputs)
            return {**run.outputs}, run.provider
        from eyeshine.device import tensors

        on_device = call.session.run_on_device(inputs, call.outputs)
        return {**tensors(on_device.outputs)}, on_device.provider

    def maps(self, call: Call, outputs: Mapping[str, Any]) -> Any:
        """Maps [B, P, h, w] from the outputs of a graph, of their kind; what else the method says goes to the call."""
        request, method = call.request, graph_method(call.request.method)
        read: dict[str, Any] = {
            field_of(name): _whole(last_blocks(name, outputs[name], method.blocks)) for name in method.signals
        }
        if "target" not in call.inputs:  # linear in the texts
            per_text = [name for name in read if name in SIGNALS and SIGNALS[name].per_text]
            read.update({name: request.target.combine(read[name]) for name in per_text})
        if "text" in method.needs and call.vectors is not None:
            read["text"] = like(outputs["similarity"], call.vectors[: len(request.texts)])
        if "prompts" in method.needs and call.vectors is not None:
            read["prompts"] = like(outputs["similarity"], call.vectors)
        if "empty_text" in method.needs:
            read["empty_text"] = like(outputs["similarity"], self._texts.encode([""])[0])
        if "centred_pixels" in method.needs:
            mean = np.asarray(self._bundle.manifest.model.mean, np.float32).reshape(3, 1, 1)
            read["centred_pixels"] = like(outputs["similarity"], request.pixels - mean)
        if "target" in method.needs and call.vectors is not None:
            read["target"] = like(outputs["similarity"], request.target.vectors(call.vectors))
        if "head_projection" in method.needs:
            read["head_projection"] = self._head_projection(method.blocks, outputs["similarity"])
        model = self._bundle.manifest.model
        rows, columns = (n // p for n, p in zip(request.pixels.shape[2:], model.patch_size, strict=True))
        signals = BlockSignals(
            **read, backend=self.backend, depth=model.layers, grid=(rows, columns), patch=model.patch_size,
            combine=request.target.combine,
        )  # fmt: skip
        if isinstance(method, ConceptAttribution):
            maps, call.details["heads"] = method.attribute(signals)
        elif isinstance(method, HeadDecomposition):
            maps, call.details["contributions"] = method.attribute(signals)
        else:
            maps = _whole(method.maps(signals, len(request.texts)))
        return maps.reshape(len(request.photos), len(request.texts), rows, columns)

    def passes(self, call: Call, method: PassesMethod, *, max_batch: int, progress: bool) -> tuple[Array, Array]:
        """Maps [B, P, h, w] and unit embeddings [B, E] of the images by a method by passes, image after image."""
        request, grid = call.request, self._bundle.manifest.grid
        encoder = Encoder(call.session, self._options, max_batch)
        model = BundleModel(self._bundle, self._sessions, encoder, progress=progress)
        text = np.asarray(call.inputs["text"], np.float32)
        embeddings = np.stack(list(encoder.stream(request.pixels)))
        maps = np.empty((len(request.photos), len(request.texts), *grid), np.float32)
        weights = request.target.weights
        for index, pixels in enumerate(request.pixels):
            model.begin()
            own = weights[index] if weights is not None and weights.ndim == 3 else weights
            maps[index] = method.explain(Subject(pixels, index, text, own), model).reshape(maps.shape[1:])
        call.details["passes"] = {"encoded": encoder.encoded, "batch": encoder.batch, "images": model.notes}
        call.clock.lap("passes")
        return maps, embeddings

    def facts(self, call: Call, provider: str) -> dict[str, Any]:
        """What a result says beside its maps."""
        request = call.request
        engine = {**self._options.metadata(), "provider": provider, "graph": call.graph, "backend": self.backend}
        return {
            "texts": request.texts,
            "method": request.method.name,
            "target": request.target.name,
            "images": request.photos,
            "crops": request.crops,
            "bundle": self._bundle.name,
            "engine": engine if self.fell_back is None else {**engine, "fell_back": self.fell_back},
            "timings_ms": call.clock.timings_ms(),
            "background": getattr(request.method, "background", 0.0),
            "details": call.details,
        }

    def _contrasted(self, request: Request, clock: Clock, truncate: bool) -> tuple[Request, dict[str, Any]]:
        """The request, with a contrast chosen for each image and text where it asks for that, and the choices."""
        if request.contrast is None:
            return request, {}
        graph = "encode_any" if self._any_size(request) else "encode"
        images = self._sessions.get(graph).run({"pixels": request.pixels}, ["embedding"]).outputs["embedding"]
        encode = partial(self._texts.encode, truncate=truncate)
        scale = self._bundle.manifest.model.logit_scale
        target, choices = contrast_target(request.texts, images, encode, request.contrast, scale)
        clock.lap("contrast")
        return replace(request, target=target), {"contrast": choices}

    def _any_size(self, request: Request) -> bool:
        """Whether the images are of another size than the model's own."""
        return request.pixels.shape[2:] != self._bundle.manifest.model.image_size

    def _head_projection(self, blocks: int, beside: Any) -> Any:
        """The bundle's constant, of the kind of ``beside`` and where it is; read once."""
        if blocks not in self._projections:
            self._projections[blocks] = like(beside, self._bundle.head_projection(blocks))
        return self._projections[blocks]


def _whole(array: Any) -> Any:
    """As it is; a tensor that is a part of another in one piece, which kernels need."""
    return array if isinstance(array, np.ndarray) else array.contiguous()


def _copy(array: Any) -> Any:
    """A copy: an engine may write its next run's outputs where these are."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def _joined(parts: list[Any]) -> Any:
    """Outputs of several runs along their first axis."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    from eyeshine.device import joined

    return joined(parts)


def like(beside: Any, array: NDArray[Any]) -> Any:
    """The array as it is, or as a torch tensor where ``beside`` is one."""
    return array if isinstance(beside, np.ndarray) else beside.new_tensor(array)
