"""The facade: load a bundle, explain images."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, EngineOptions, Session, choose, engine_options, open_session
from eyeshine.errors import BundleError, EngineError, FallbackWarning, InputError, OptionError
from eyeshine.explanation import Explanation
from eyeshine.images import ImageLike, load_image
from eyeshine.methods import BlockSignals, Method, get_method
from eyeshine.preprocess import CropBox, Preprocess
from eyeshine.signals import SIGNALS, last_blocks
from eyeshine.targets import Against, Target, make_target
from eyeshine.texts import TextEncoder, check_texts
from eyeshine.tokenizer import Tokenizer
from eyeshine.verify import gate

__all__ = ["Explainer"]

Array = NDArray[np.float32]
T = TypeVar("T")


class Explainer:
    """Explains images with one bundle. May be used from several threads.

    Sessions are made at their first use; ``warm_up`` makes them ahead.

    Args:
        bundle: an opened bundle.
        options: which engine runs it, and how; by default the CPU.
        templates: prompt templates, each with one ``{}``; several are averaged. Empty: texts as they stand.
        text_cache: how many texts the embedding cache holds.
        check: compare every graph with the bundle's golden values when it is first loaded on this machine, and refuse
            an engine that computes it wrongly.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions | None = None,
        *,
        templates: Sequence[str] = (),
        text_cache: int = 1024,
        check: bool = True,
    ) -> None:
        self.bundle = bundle
        self.options: EngineOptions = CpuOptions() if options is None else options
        self.check = check
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
        self.texts = TextEncoder(tokenizer, lambda: self._session("text"), templates, text_cache)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._fell_back: str | None = None

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        *,
        threads: int = 0,
        provider: str | EngineOptions = "cpu",
        capture: tuple[int, int] | None = None,
        fallback: Sequence[str | EngineOptions] = (),
        resize: str | None = None,
        templates: Sequence[str] = (),
        text_cache: int = 1024,
        verify: bool = True,
        check: bool = True,
    ) -> Explainer:
        """Open a bundle; without a name the embedded ``roads`` model.

        Args:
            bundle: the bundle's folder.
            threads: threads inside an operator, for engines on the CPU; 0 takes all CPUs of the process.
            provider: "cpu", "cuda", "tensorrt" or "openvino", or an engine's options.
            capture: (images, texts) to capture a CUDA graph for; no other size runs then.
            fallback: what to take where ``provider`` is not there, in this order, with a warning; nothing by default.
            resize: "shortest" (shortest side and centre crop) or "squash"; by default what the bundle says.
            templates: prompt templates, each with one ``{}``.
            text_cache: how many texts the embedding cache holds.
            verify: compare every file with its SHA-256.
            check: compare every graph with its golden values when it is first loaded on this machine.

        Raises:
            BundleError: missing, damaged or of another schema version.
            EngineError: the provider is not there; the message names what to install.
            OptionError: an option outside its range.
        """
        asked = engine_options(provider, threads=threads, capture=capture)
        options, missing = choose(asked, [engine_options(other) for other in fallback])
        opened = Bundle.open(bundle, verify=verify)
        explainer = cls(opened, options, templates=templates, text_cache=text_cache, check=check)
        if missing is not None:
            explainer._fell_back = missing
            warnings.warn(f"fell back to provider {options.engine}: {missing}", FallbackWarning, stacklevel=2)
        if resize is not None:
            explainer.preprocess = Preprocess.from_manifest({**opened.manifest.preprocess, "resize": resize})
        return explainer

    def warm_up(self) -> None:
        """Make the sessions that ``explain`` needs by default, so that the first call is as fast as the next."""
        for name in ("image", "text"):
            self._session(name)

    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        *,
        method: str | Method = "grad_eclip",
        against: Against = None,
        truncate: bool = False,
    ) -> Explanation:
        """Explain where the model looked in each image for each text.

        Args:
            images: a path, a PIL image, or a uint8 or float (0..1) array; a list of them is a batch.
            texts: P texts; a text that was seen before costs no text forward.
            method: a name from ``eyeshine methods``, or a ``Method``.
            against: explain each text rather than these, or rather than the "rest" of the texts.
            truncate: accept texts that are longer than the context and cut them.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used.
            SignalError: the bundle lacks the signals that the method needs.
        """
        started = perf_counter()
        chosen = get_method(method)
        listed = check_texts(texts)
        target = make_target(listed, against)
        if against is not None and not chosen.uses_text:
            what = f"method {chosen.name} does not depend on the text"
            raise OptionError(what, got="against", cure="leave against out")
        photos = [_own(load_image(image), image) for image in _as_list(images)]
        prepared = [self.preprocess.prepare(photo) for photo in photos]
        pixels = np.stack([item.pixels for item in prepared])
        after_images = perf_counter()
        vectors = self.texts.encode(target.prompts, truncate=truncate)
        after_texts = perf_counter()
        graph = self.bundle.cheapest(chosen.signals | {"similarity"})
        session = self._session(graph)
        loaded = perf_counter()
        run = session.run({"pixels": pixels, "text": vectors}, ["similarity", *sorted(chosen.signals)])
        after_run = perf_counter()
        maps = self._maps(chosen, target, run.outputs, len(listed))
        ended = perf_counter()
        timings = {
            "preprocess": after_images - started,
            "text": after_texts - after_images,
            "load": loaded - after_texts,
            "graph": after_run - loaded,
            "maps": ended - after_run,
            "total": ended - started,
        }
        return Explanation(
            maps=maps,
            similarities=run.outputs["similarity"][:, : len(listed)],
            texts=tuple(listed),
            method=chosen.name,
            target=target.name,
            images=tuple(photos),
            crops=tuple(self._seen(item.crop) for item in prepared),
            bundle=self.bundle.name,
            engine=self._facts(run.provider, graph),
            timings_ms={name: seconds * 1e3 for name, seconds in timings.items()},
        )

    def encode_images(self, images: ImageLike | Sequence[ImageLike]) -> Array:
        """Unit image embeddings [B, E] from ``encode.onnx``."""
        pixels = np.stack([self.preprocess.prepare(load_image(image)).pixels for image in _as_list(images)])
        return self._session("encode").run({"pixels": pixels}, ["embedding"]).outputs["embedding"]

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Array:
        """Unit text embeddings [P, E]."""
        return self.texts.encode(check_texts(texts), truncate=truncate)

    def _seen(self, crop: CropBox) -> CropBox:
        """The part of a crop that fills whole patches; the graph drops pixels that do not."""
        model, grid = self.bundle.manifest.model, self.bundle.manifest.grid
        rows, columns = (g * p / n for g, p, n in zip(grid, model.patch_size, model.image_size, strict=True))
        if rows == columns == 1:
            return crop
        y1, x1 = crop.y0 + (crop.y1 - crop.y0) * rows, crop.x0 + (crop.x1 - crop.x0) * columns
        return CropBox(crop.y0, y1, crop.x0, x1, crop.height, crop.width)

    def _maps(self, method: Method, target: Target, outputs: Mapping[str, Array], count: int) -> Array:
        """Maps [B, P, h, w] from the outputs of a graph."""
        last = {name: _last_block(name, outputs[name]) for name in method.signals if SIGNALS[name].per_block}
        if "gradient" in last:
            last["gradient"] = target.combine(last["gradient"])
        maps = method.maps(BlockSignals(**last), count)
        if not np.isfinite(maps).all():
            raise EngineError(f"method {method.name} yielded a map that is not finite", cure="report it with the image")
        return maps.reshape(len(maps), count, *self.bundle.manifest.grid)

    def _facts(self, provider: str, graph: str) -> dict[str, Any]:
        """What a result says of the engine."""
        fell_back = {} if self._fell_back is None else {"fell_back": self._fell_back}
        return {**self.options.metadata(), "provider": provider, "graph": graph, **fell_back}

    def _session(self, name: str) -> Session:
        with self._lock:
            if name not in self._sessions:
                session = open_session(self.bundle, name, self.options)
                if self.check:
                    gate(self.bundle, name, session, self.options)
                self._sessions[name] = session
            return self._sessions[name]


def _as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image or a sequence of them, as a list; an array is one image."""
    if isinstance(images, list | tuple):
        if not images:
            raise InputError("no image to explain", got="an empty list", allowed="one image or more")
        return list(images)
    return [cast(ImageLike, images)]


def _last_block(name: str, signal: Array) -> Array:
    """The last explained block of a signal, its K axis dropped."""
    return cast(Array, np.squeeze(last_blocks(name, signal, 1), SIGNALS[name].dims.index("K")))


def _own(photo: NDArray[np.uint8], source: object) -> NDArray[np.uint8]:
    """A copy where the caller's own array came through: a camera loop may write its next frame into it."""
    return photo.copy() if isinstance(source, np.ndarray) and np.may_share_memory(photo, source) else photo


def _from_bundle(read: Callable[[], T]) -> T:
    """What the manifest asks for was not the caller's choice: an option that it gets wrong is a damaged bundle."""
    try:
        return read()
    except OptionError as error:
        raise BundleError(f"manifest is malformed: {error}", cure="export the bundle again") from error
