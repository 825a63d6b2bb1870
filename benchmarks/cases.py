"""From a case's description to something that runs, and to what it should yield."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bundles import BenchModel
from benchmarks.eager import EagerExplainer
from benchmarks.gate import Array, Reference, check
from benchmarks.registry import CaseSpec
from eyeshine import Explainer
from eyeshine.engine import CpuOptions, OrtCpuSession
from eyeshine.methods import BlockSignals, GradEclip

__all__ = ["Bench", "Case"]

Pixels = NDArray[np.float32]
_PHOTO = (480, 640, 3)
_TEXT = "a car"  # known to the embedded model; times do not depend on it, its vector is cached
_METHOD = GradEclip()
_SIGNALS = ("similarity", *sorted(_METHOD.signals))


@dataclass(frozen=True)
class Case:
    """A case that can run.

    Attributes:
        spec: what it is.
        run: does it once and returns what it yields.
        expected: computes what it should yield.
        probe: yields what is compared with that, where it is not ``run``.
    """

    spec: CaseSpec
    run: Callable[[], Mapping[str, Array]]
    expected: Callable[[], Mapping[str, Array]]
    probe: Callable[[], Mapping[str, Array]] | None = None

    def check(self) -> float:
        """Largest relative error of one run.

        Raises:
            GateError: the result is wrong.
        """
        return check(self.spec.name, (self.probe or self.run)(), self.expected())


@dataclass
class Bench:
    """Makes the cases of one model; sessions are made once and shared by the cases of a group.

    Attributes:
        model: the exported model.
        options: session options of every ONNX case; eager PyTorch gets the same number of threads.
    """

    model: BenchModel
    options: CpuOptions
    _sessions: dict[Path, OrtCpuSession] = field(default_factory=dict)

    def make(self, spec: CaseSpec) -> Case:
        """The case of a description."""
        make: dict[str, Callable[[CaseSpec], Case]] = {
            "plain": self._plain,
            "encode": self._encode,
            "explain": lambda spec: self._explain(spec, self.model.two.folder / "image.onnx", 1),
            "two": lambda spec: self._explain(spec, self.model.two.folder / "deep.onnx", 2),
            "all": lambda spec: self._explain(spec, self.model.all_blocks, self.model.source.config.vision.layers),
            "call": self._call,
            "embedded": self._embedded,
            "eager": self._eager,
        }
        return make[spec.kind](spec)

    # -- inputs ------------------------------------------------------------------------------------------------

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.model.source)

    @cached_property
    def pixels(self) -> Pixels:
        """One image [1, 3, Y, X] in 0..1."""
        size = self.model.source.config.vision.image_size
        return np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)

    @cached_property
    def normalised(self) -> Pixels:
        """The same for those that expect mean and std to be gone."""
        normalisation = self.model.source.normalisation
        mean, std = (np.array(x, np.float32).reshape(1, 3, 1, 1) for x in (normalisation.mean, normalisation.std))
        return np.asarray((self.pixels - mean) / std, np.float32)

    def text(self, prompts: int) -> NDArray[np.float32]:
        """Unit vectors [P, E], as the text cache gives them."""
        width = self.model.source.config.embed_dim
        vectors = np.random.default_rng(1).standard_normal((prompts, width), dtype=np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def session(self, path: Path) -> OrtCpuSession:
        if path not in self._sessions:
            self._sessions[path] = OrtCpuSession(path, self.options)
        return self._sessions[path]

    # -- kinds -------------------------------------------------------------------------------------------------

    def _plain(self, spec: CaseSpec) -> Case:
        session, pixels = self.session(self.model.plain), self.normalised
        return Case(spec, lambda: session.run({"pixels": pixels}, ["embedding"]).outputs, self._embedding)

    def _encode(self, spec: CaseSpec) -> Case:
        session, pixels = self.session(self.model.two.folder / "encode.onnx"), self.pixels
        return Case(spec, lambda: session.run({"pixels": pixels}, ["embedding"]).outputs, self._embedding)

    def _embedding(self) -> Mapping[str, Array]:
        return {"embedding": self.reference.explain(self.pixels, self.text(1), 1)["embedding"]}

    def _explain(self, spec: CaseSpec, path: Path, blocks: int) -> Case:
        """The graph and the map, as ``Explainer`` runs them; the map is the last block's."""
        session, inputs = self.session(path), {"pixels": self.pixels, "text": self.text(spec.prompts)}

        def run() -> Mapping[str, Array]:
            out = session.run(inputs, _SIGNALS).outputs
            signals = BlockSignals(
                spatial_weights=out["spatial_weights"][:, -1],
                values=out["values"][:, -1],
                gradient=out["gradient"][:, :, -1],
            )
            return {**out, "maps": _METHOD.maps(signals, spec.prompts)}

        return Case(spec, run, lambda: self.reference.explain(self.pixels, self.text(spec.prompts), blocks))

    def _eager(self, spec: CaseSpec) -> Case:
        torch.set_num_threads(self.options.threads)
        explainer = EagerExplainer(self.model.network)
        pixels, text = torch.from_numpy(self.normalised), torch.from_numpy(self.text(spec.prompts))

        def run() -> Mapping[str, Array]:
            out = {name: tensor.numpy() for name, tensor in explainer.explain(pixels, text).items()}
            return {**out, "gradient": out["gradient"][:, :, None]}

        return Case(spec, run, lambda: self.reference.explain(self.pixels, self.text(spec.prompts), 1))

    def _call(self, spec: CaseSpec) -> Case:
        explainer, image = Explainer(self.model.two, self.options), _photo()

        def expected() -> Mapping[str, Array]:
            pixels = explainer.preprocess.prepare(image).pixels[None]
            return self.reference.explain(pixels, explainer.encode_texts([_TEXT]), 1)

        return Case(spec, lambda: _called(explainer, image), expected)

    def _embedded(self, spec: CaseSpec) -> Case:
        """Its weights are in the bundle alone, so that autograd's results are those that export put beside them."""
        explainer, image = Explainer.load(threads=self.options.threads), _photo()
        golden = explainer.bundle.golden()
        expected = {key.removeprefix("image/"): value for key, value in golden.items() if key.startswith("image/")}

        def probe() -> Mapping[str, Array]:
            inputs = {name: golden[f"in/{name}"] for name in ("pixels", "text")}
            return self.session(explainer.bundle.folder / "image.onnx").run(inputs, list(expected)).outputs

        return Case(spec, lambda: _called(explainer, image), lambda: expected, probe)


def _photo() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, _PHOTO, dtype=np.uint8)


def _called(explainer: Explainer, image: NDArray[np.uint8]) -> Mapping[str, Array]:
    explanation = explainer.explain(image, [_TEXT])
    maps = explanation.maps
    return {"maps": maps.reshape(*maps.shape[:2], -1), "similarity": explanation.similarities}
