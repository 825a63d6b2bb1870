"""The facade: load a bundle, explain images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, OrtCpuSession, Session, check_session
from eyeshine.errors import BundleError, EngineError, InputError, OptionError
from eyeshine.explanation import Explanation
from eyeshine.images import ImageLike, load_image
from eyeshine.methods import BlockSignals, Method, get_method
from eyeshine.preprocess import CropBox, Preprocess
from eyeshine.signals import SIGNALS, last_blocks
from eyeshine.targets import Against, Target, make_target
from eyeshine.texts import TextEncoder, check_texts
from eyeshine.tokenizer import Tokenizer

__all__ = ["Explainer"]

Array = NDArray[np.float32]
T = TypeVar("T")


class Explainer:
    """Explains images with one bundle. May be used from several threads.

    Sessions are made at their first use; ``warm_up`` makes them ahead.

    Args:
        bundle: an opened bundle.
        options: how the CPU runs it.
        templates: prompt templates, each with one ``{}``; several are averaged. Empty: texts as they stand.
        text_cache: how many texts the embedding cache holds.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: CpuOptions | None = None,
        *,
        templates: Sequence[str] = (),
        text_cache: int = 1024,
    ) -> None:
        self.bundle = bundle
        self.options = CpuOptions() if options is None else options
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

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        *,
        threads: int = 0,
        resize: str | None = None,
        templates: Sequence[str] = (),
        text_cache: int = 1024,
        verify: bool = True,
    ) -> Explainer:
        """Open a bundle; without a name the embedded ``roads`` model.

        Args:
            bundle: the bundle's folder.
            threads: threads inside an operator; 0 takes all CPUs of the process.
            resize: "shortest" (shortest side and centre crop) or "squash"; by default what the bundle says.
            templates: prompt templates, each with one ``{}``.
            text_cache: how many texts the embedding cache holds.
            verify: compare every file with its SHA-256.

        Raises:
            BundleError: missing, damaged or of another schema version.
            OptionError: an option outside its range.
        """
        opened = Bundle.open(bundle, verify=verify)
        explainer = cls(opened, CpuOptions(threads), templates=templates, text_cache=text_cache)
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
            engine={**self.options.metadata(), "provider": run.provider, "graph": graph},
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

    def _session(self, name: str) -> Session:
        with self._lock:
            if name not in self._sessions:
                graph = self.bundle.graph(name)
                session = OrtCpuSession(self.bundle.folder / graph.file, self.options)
                check_session(session, graph)
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
