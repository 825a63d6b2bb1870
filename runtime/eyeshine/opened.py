"""A bundle, open on an engine: what every call of the facade stands on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.backend import Backend, check_backend
from eyeshine.bundle import Bundle
from eyeshine.encoding import BundleModel, Encoder, default_batch
from eyeshine.engine import CpuOptions, EngineOptions, Session, choose, engine_options
from eyeshine.errors import BundleError, FallbackWarning, OptionError
from eyeshine.images import ImageLike, load_image
from eyeshine.pipeline import Pipeline
from eyeshine.preprocess import Preprocess
from eyeshine.request import as_list, stack
from eyeshine.sessions import Sessions
from eyeshine.texts import TextEncoder, check_texts
from eyeshine.tokenizer import Tokenizer

__all__ = ["Opened"]

Array = NDArray[np.float32]
T = TypeVar("T")


class Opened:
    """Loads a bundle, makes its sessions at their first use, and encodes images and texts.

    Args:
        bundle, options, backend, templates, text_cache, check: as ``Explainer`` takes them.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions | None = None,
        *,
        backend: Backend = "reference",
        templates: Sequence[str] = (),
        text_cache: int = 1024,
        check: bool = True,
    ) -> None:
        self.bundle = bundle
        self.options: EngineOptions = CpuOptions() if options is None else options
        self.backend = check_backend(backend, self.options)
        self.preprocess = _from_bundle(lambda: Preprocess.from_manifest(bundle.manifest.preprocess))
        info = bundle.manifest.tokenizer
        tokenizer = _from_bundle(
            lambda: Tokenizer.load(
                bundle.folder / info.file,
                context_length=info.context_length,
                start=info.start,
                end=info.end,
                pad=info.pad,
                unknown=info.unknown,
                clean=cast(Any, info.clean),  # Tokenizer checks it
            )
        )
        self._sessions = Sessions(bundle, self.options, check=check)
        self.texts = TextEncoder(tokenizer, lambda: self._session("text"), templates, text_cache)
        self._pipeline = Pipeline(bundle, self.options, self.backend, self._sessions, self.texts)

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        *,
        threads: int = 0,
        provider: str | EngineOptions = "cpu",
        capture: tuple[int, int] | None = None,
        fallback: Sequence[str | EngineOptions] = (),
        backend: Backend = "reference",
        resize: str | None = None,
        templates: Sequence[str] = (),
        text_cache: int = 1024,
        verify: bool = True,
        check: bool = True,
    ) -> Self:
        """Open a bundle; without a name the embedded ``roads`` model.

        Args:
            bundle: the bundle's folder.
            threads: threads inside an operator, for engines on the CPU; 0 takes all CPUs of the process.
            provider: "cpu", "cuda", "tensorrt" or "openvino", or an engine's options.
            capture: (images, texts) to capture a CUDA graph for; no other size runs then.
            fallback: what to take where ``provider`` is not there, in this order, with a warning; nothing by default.
            backend: "reference" (maps by NumPy) or "triton" (by kernels on the GPU of the engine).
            resize: "shortest" (shortest side and centre crop), "squash", or "keep" (each side to whole patches, nothing
                cropped; needs a bundle exported with ``--signals sizes``); by default what the bundle says.
            templates: prompt templates, each with one ``{}``.
            text_cache: how many texts the embedding cache holds, beside the labels that an evaluation asks for.
            verify: compare every file with its SHA-256.
            check: compare every graph with its golden values when it is first loaded on this machine.

        Raises:
            BundleError: missing, damaged or of another schema version.
            EngineError: the provider or the kernels are not there; the message names what to install.
            OptionError: an option outside its range.
        """
        asked = engine_options(provider, threads=threads, capture=capture)
        options, missing = choose(asked, [engine_options(other) for other in fallback])
        opened = Bundle.open(bundle, verify=verify)
        explainer = cls(opened, options, backend=backend, templates=templates, text_cache=text_cache, check=check)
        if missing is not None:
            explainer._pipeline.fell_back = missing
            warnings.warn(f"fell back to provider {options.engine}: {missing}", FallbackWarning, stacklevel=2)
        if resize is not None:
            patch = {"patch": opened.manifest.model.patch_size} if resize == "keep" else {}
            explainer.preprocess = Preprocess.from_manifest({**opened.manifest.preprocess, "resize": resize, **patch})
        return explainer

    def warm_up(self) -> None:
        """Make the sessions that ``explain`` needs by default, so that the first call is as fast as the next."""
        for name in ("image", "text"):
            self._session(name)

    def encode_images(self, images: ImageLike | Sequence[ImageLike]) -> Array:
        """Unit image embeddings [B, E] from ``encode.onnx``."""
        pixels = stack([self.preprocess.prepare(load_image(image)) for image in as_list(images)])
        own = pixels.shape[2:] == self.bundle.manifest.model.image_size
        return (
            self._session("encode" if own else "encode_any").run({"pixels": pixels}, ["embedding"]).outputs["embedding"]
        )

    def encoder(self, max_batch: int | None = None) -> Encoder:
        """Encodes a stream of images as the model takes them, ``max_batch`` at a time; by default as in ``explain``.

        Raises:
            OptionError: ``max_batch`` outside 1..4096, or resize "keep".
        """
        if self.preprocess.resize == "keep":
            raise OptionError("batches are of the model's own size", got="resize keep", allowed="shortest, squash")
        size = default_batch(self.options) if max_batch is None else max_batch
        return Encoder(self._session("encode"), self.options, size)

    def model(self, max_batch: int = 32, *, progress: bool = False) -> BundleModel:
        """The model as methods by passes see it, see ``methods.passes.Model``.

        Raises:
            OptionError: ``max_batch`` outside 1..4096.
        """
        return BundleModel(self.bundle, self._sessions, self.encoder(max_batch), progress=progress)

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Array:
        """Unit text embeddings [P, E]."""
        return self.texts.encode(check_texts(texts), truncate=truncate)

    def _session(self, name: str) -> Session:
        return self._sessions.get(name)


def _from_bundle(read: Callable[[], T]) -> T:
    """What the manifest asks for was not the caller's choice: an option that it gets wrong is a damaged bundle."""
    try:
        return read()
    except OptionError as error:
        raise BundleError(f"manifest is malformed: {error}", cure="export the bundle again") from error
