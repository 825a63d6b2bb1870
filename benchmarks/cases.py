"""From a case's description to something that runs on an engine, and to what it should yield."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import eager, postprocess
from benchmarks.bundles import BenchModel
from benchmarks.gate import Array, Case, NotSupportedError
from benchmarks.registry import ALL, CaseSpec
from benchmarks.workload import Workload
from eyeshine import Explainer
from eyeshine.bundle import Bundle
from eyeshine.engine import CudaOptions, EngineOptions, Session, TensorRtOptions
from eyeshine.errors import EngineError
from eyeshine.methods import BlockSignals, GradEclip
from eyeshine.signals import SIGNALS

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
        options: the engine of cases that name none.
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
        threads = getattr(self.options, "threads", None)
        make: dict[str, Callable[[CaseSpec], Case]] = {
            "plain": lambda spec: self._embedding(spec, self.model.plain(self._precision(spec)), "plain"),
            "encode": lambda spec: self._embedding(spec, self._bundle(spec), "encode"),
            "explain": self._explain,
            "call": self._call,
            "embedded": self._embedded,
            "eager": lambda spec: eager.make(spec, self.workload, self.model.network, threads=threads),
            "post": lambda spec: postprocess.make(spec, self.workload),
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
        return Case(
            spec,
            run,
            expected,
            lambda: self.workload.watched({name: _host(value) for name, value in run().items()}),
            session.provider,
            self._options(spec).precision(bundle.manifest.precision),
            bundle.hash,
        )

    def _embedding(self, spec: CaseSpec, bundle: Bundle, graph: str) -> Case:
        session, pixels = self._session(bundle, graph, self._options(spec)), self.workload.pixels
        if graph == "plain":
            pixels = self.workload.normalised
        on_device = self._on_device(spec)

        def run() -> Mapping[str, Any]:
            method = session.run_on_device if on_device else session.run
            return method({"pixels": pixels}, ["embedding"]).outputs

        def expected() -> Mapping[str, Array]:
            return {"embedding": self.workload.expected(1)["embedding"]}

        return self._case(spec, bundle, session, run, expected)

    def _explain(self, spec: CaseSpec) -> Case:
        """The graph and the map, as ``Explainer`` runs them; the map is the last block's."""
        layers = self.model.source.config.vision.layers
        blocks = layers if spec.blocks == ALL else min(spec.blocks, layers)
        bundle, graph = (self._bundle(spec), "image") if blocks == 1 else (self.model.deep(blocks), "deep")
        session = self._session(bundle, graph, self._options(spec))
        inputs = {"pixels": self.workload.pixels, "text": self.workload.text(spec.prompts)}

        def run() -> Mapping[str, Any]:
            out = session.run(inputs, _SIGNALS).outputs
            last = {name: out[name].take(-1, SIGNALS[name].dims.index("K")) for name in _METHOD.signals}
            return {**out, "maps": _METHOD.maps(BlockSignals(**last), spec.prompts)}

        def run_on_device() -> Mapping[str, Any]:
            out = session.run_on_device(inputs, _SIGNALS).outputs
            return {**out, "maps": postprocess.maps_on_device(out, bundle.manifest.model.heads)}

        chosen = run_on_device if self._on_device(spec) else run
        return self._case(spec, bundle, session, chosen, lambda: self.workload.expected(spec.prompts, blocks))

    def _on_device(self, spec: CaseSpec) -> bool:
        return isinstance(self._options(spec), CudaOptions | TensorRtOptions)

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
    return Case(spec, run, expected, run, explainer.options.metadata()["provider"], precision, bundle.hash)


def _host(value: Any) -> Array:
    """What an engine or torch yields, as a NumPy array; onnxruntime's and torch's values have one method for it."""
    return value if isinstance(value, np.ndarray) else postprocess.to_host(value)
