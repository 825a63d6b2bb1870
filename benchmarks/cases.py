"""From a case's description to something that runs on an engine, and to what it should yield."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import eager, eager_methods, postprocess
from benchmarks.bundles import BenchModel
from benchmarks.gate import Array, Case, Facts, NotSupportedError
from benchmarks.postprocess import Signals
from benchmarks.registry import ALL, CaseSpec
from benchmarks.workload import Workload
from eyeshine import Explainer
from eyeshine.bundle import Bundle
from eyeshine.concept import ConceptOptions
from eyeshine.engine import CpuOptions, CudaOptions, EngineOptions, Session, TensorRtOptions
from eyeshine.errors import EngineError
from eyeshine.methods import BlockSignals, ConceptAttribution, GradEclip, graph_method
from eyeshine.methods.configure import configure
from eyeshine.pipeline import like
from eyeshine.signals import last_blocks
from eyeshine_kernels.backend import Backend
from eyeshine_kernels.head_scores import Strategy

__all__ = ["Bench"]

_PHOTO = (480, 640, 3)
_TEXT = "a car"  # known to the embedded model; times do not depend on it, its vector is cached
_METHOD = GradEclip()
_SIGNALS = ("similarity", *sorted(_METHOD.signals))


@dataclass
class Bench:
    """Makes the cases of one model; sessions are made once and shared by the cases of a group.

    Attributes:
        model: with its exports.
        workload: inputs and oracle.
        graphs: the bundle with ``encode`` and ``image`` of cases that name no precision.
        options: the engine of cases that name none; on the CPU torch gets as many threads.
        engines: those that cases name.
    """

    model: BenchModel
    workload: Workload
    graphs: Bundle
    options: EngineOptions
    engines: Mapping[str, EngineOptions] = field(default_factory=dict)
    _sessions: dict[tuple[Path, str, EngineOptions], Session] = field(default_factory=dict)

    def make(self, spec: CaseSpec) -> Case:
        """The case of a description.

        Raises:
            NotSupportedError: the engine is not there, or refuses the graph.
        """
        if isinstance(self.options, CpuOptions):
            torch.set_num_threads(self.options.threads)
        make: dict[str, Callable[[CaseSpec], Case]] = {
            "plain": lambda spec: self._embedding(spec, self.model.plain(self._precision(spec)), "plain"),
            "encode": lambda spec: self._embedding(spec, self._bundle(spec), "encode"),
            "explain": self._explain,
            "concept": self._concept,
            "method": self._method,
            "call": self._call,
            "embedded": self._embedded,
            "eager": lambda spec: eager.make(spec, self.workload, self.model.network.visual),
            "passes": self._passes,
            "eager-passes": lambda spec: eager_methods.eager_case(spec, self.workload, self.model.network.visual),
            "post": self._post,
        }
        return make[spec.kind](spec)

    # -- where a graph lies and what runs it -------------------------------------------------------------------

    def _precision(self, spec: CaseSpec) -> str:
        """Of the plain encoder: int8 is held against fp32."""
        return "fp16" if self.graphs.manifest.precision == "fp16" else "fp32"

    def _bundle(self, spec: CaseSpec) -> Bundle:
        return self.model.precise(spec.precision) if spec.precision else self.graphs

    def _options(self, spec: CaseSpec) -> EngineOptions:
        options = self.engines[spec.engine] if spec.engine else self.options
        if isinstance(options, CudaOptions | TensorRtOptions) and options.capture is not None:
            return replace(options, capture=(self.workload.batch, max(spec.prompts, 1)))
        return options

    def _session(self, bundle: Bundle, graph: str, options: EngineOptions) -> Session:
        key = bundle.folder, graph, options
        if key not in self._sessions:
            try:
                options.check_available()
                self._sessions[key] = options.open(bundle, graph)
            except EngineError as error:
                raise NotSupportedError(str(error)) from error
        return self._sessions[key]

    # -- kinds -------------------------------------------------------------------------------------------------

    def _case(
        self,
        spec: CaseSpec,
        bundle: Bundle,
        session: Session,
        run: Callable[[], Mapping[str, Any]],
        expected: Callable[[], Mapping[str, Array]],
    ) -> Case:
        def probe() -> Mapping[str, Array]:
            return self.workload.watched({name: _host(value) for name, value in run().items()})

        precision = self._options(spec).precision(bundle.manifest.precision)
        return Case(Facts(spec, session.provider, precision, bundle.hash), run, probe, expected)

    def _embedding(self, spec: CaseSpec, bundle: Bundle, graph: str) -> Case:
        options = self._options(spec)
        session = self._session(bundle, graph, options)
        pixels = self.workload.normalised if graph == "plain" else self.workload.pixels

        def run() -> Mapping[str, Any]:
            return _run(session, options, {"pixels": pixels}, ["embedding"])

        def expected() -> Mapping[str, Array]:
            return {"embedding": self.workload.expected(1)["embedding"]}

        return self._case(spec, bundle, session, run, expected)

    def _explain(self, spec: CaseSpec) -> Case:
        """The graph and the map, as ``Explainer`` runs them; the map is the last block's."""
        layers, options = self.model.source.config.vision.layers, self._options(spec)
        blocks = layers if spec.blocks == ALL else min(spec.blocks, layers)
        bundle, graph = (self._bundle(spec), "image") if blocks == 1 else (self.model.deep(blocks), "deep")
        session = self._session(bundle, graph, options)
        inputs = {"pixels": self.workload.pixels, "text": self.workload.text(spec.prompts)}
        backend: Backend = "triton" if options.device_type == "cuda" else "reference"

        def run() -> Mapping[str, Any]:
            out = _run(session, options, inputs, _SIGNALS)
            last: dict[str, Any] = {name: last_blocks(name, out[name], 1) for name in _METHOD.signals}
            maps = _METHOD.maps(BlockSignals(backend=backend, **last), spec.prompts)
            eager.synchronize(options.device_type)
            return {**out, "maps": maps}

        return self._case(spec, bundle, session, run, lambda: self.workload.expected(spec.prompts, blocks))

    def _concept(self, spec: CaseSpec) -> Case:
        """Concept Attribution: the graph, the choice of heads, and the map; the gate sees what the graph yields."""
        options = self._options(spec)
        blocks = min(spec.blocks, self.model.source.config.vision.layers)
        bundle, graph = (self._bundle(spec), "image") if blocks == 1 else (self.model.deep(blocks), "deep")
        session = self._session(bundle, graph, options)
        text = self.workload.text(spec.prompts)
        inputs = {"pixels": self.workload.pixels, "text": text}
        strategy: Strategy = "heads" if blocks == 1 else "both"
        method = ConceptAttribution(ConceptOptions(strategy=strategy, blocks=blocks))
        backend: Backend = "triton" if options.device_type == "cuda" else "reference"
        outputs = ["similarity", *sorted(method.signals)]
        projection = bundle.head_projection(blocks)

        def run() -> Mapping[str, Any]:
            out = _run(session, options, inputs, outputs)
            constants = {"text": like(out["similarity"], text), "head_projection": like(out["similarity"], projection)}
            read: dict[str, Any] = {name: last_blocks(name, out[name], blocks) for name in method.signals}
            method.attribute(BlockSignals(backend=backend, **read, **constants))
            eager.synchronize(options.device_type)
            return out

        def expected() -> Mapping[str, Array]:
            found = self.workload.expected(spec.prompts, blocks)
            return {name: found[name] for name in ("similarity", "gradient")}

        return self._case(spec, bundle, session, run, expected)

    def _method(self, spec: CaseSpec) -> Case:
        """The graph, and a method's map of all explained blocks; the gate sees what the graph yields."""
        options, vision = self._options(spec), self.model.source.config.vision
        blocks = min(spec.blocks, vision.layers)
        bundle, graph = (self._bundle(spec), "image") if blocks == 1 else (self.model.deep(blocks), "deep")
        session = self._session(bundle, graph, options)
        inputs = {"pixels": self.workload.pixels, "text": self.workload.text(spec.prompts)}
        method = graph_method(configure(spec.method, {"layers": blocks}))
        backend: Backend = "triton" if options.device_type == "cuda" else "reference"
        outputs = sorted({"similarity", "gradient", *method.signals})

        def run() -> Mapping[str, Any]:
            out = _run(session, options, inputs, outputs)
            read: dict[str, Any] = {name: last_blocks(name, out[name], blocks) for name in method.signals}
            method.maps(BlockSignals(backend=backend, grid=vision.grid, **read), spec.prompts)
            eager.synchronize(options.device_type)
            return out

        def expected() -> Mapping[str, Array]:
            found = self.workload.expected(spec.prompts, blocks)
            return {name: found[name] for name in ("similarity", "gradient")}

        return self._case(spec, bundle, session, run, expected)

    def _passes(self, spec: CaseSpec) -> Case:
        groups = eager_methods.TRIALS[spec.name].groups
        bundle = self.model.signals(groups) if groups else self.graphs
        return eager_methods.our_case(spec, self.workload, bundle, self._options(spec))

    def _post(self, spec: CaseSpec) -> Case:
        vision = self.model.source.config.vision
        return postprocess.make(
            spec, Signals.random(self.workload.batch, spec.prompts, vision.grid[0] * vision.grid[1], vision.width)
        )

    def _call(self, spec: CaseSpec) -> Case:
        explainer, image = Explainer(self.graphs, self.options), _photo()

        def expected() -> Mapping[str, Array]:
            pixels = explainer.preprocess.prepare(image).pixels[None]
            return self.workload.expected(1, pixels=pixels, text=explainer.encode_texts([_TEXT]))

        return _call_case(spec, explainer, image, expected)

    def _embedded(self, spec: CaseSpec) -> Case:
        """Its weights are in the bundle alone, so that autograd's results are those that export put beside them."""
        explainer = Explainer(Bundle.open(), self.options)
        golden = explainer.bundle.golden()
        expected = {key.removeprefix("image/"): value for key, value in golden.items() if key.startswith("image/")}

        def probe() -> Mapping[str, Array]:
            inputs = {name: golden[f"in/{name}"] for name in ("pixels", "text")}
            return self._session(explainer.bundle, "image", self.options).run(inputs, list(expected)).outputs

        return replace(_call_case(spec, explainer, _photo(), lambda: expected), probe=probe)


def _photo() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, _PHOTO, dtype=np.uint8)


def _call_case(
    spec: CaseSpec, explainer: Explainer, image: NDArray[np.uint8], expected: Callable[[], Mapping[str, Array]]
) -> Case:
    def run() -> Mapping[str, Array]:
        explanation = explainer.explain(image, [_TEXT])
        maps = explanation.maps
        return {"maps": maps.reshape(*maps.shape[:2], -1), "similarity": explanation.similarities}

    bundle = explainer.bundle
    precision = explainer.options.precision(bundle.manifest.precision)
    return Case(Facts(spec, explainer.options.metadata()["provider"], precision, bundle.hash), run, run, expected)


def _run(
    session: Session, options: EngineOptions, inputs: Mapping[str, NDArray[np.float32]], outputs: Sequence[str]
) -> Mapping[str, Any]:
    """NumPy arrays of an engine on the CPU; torch tensors that stay on the GPU of one that is there."""
    if options.device_type == "cpu":
        return session.run(inputs, outputs).outputs
    from eyeshine.device import tensors

    return tensors(session.run_on_device(inputs, outputs).outputs)


def _host(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else np.asarray(value.cpu().numpy())
