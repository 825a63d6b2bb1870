"""The facade: load a bundle, explain images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.bundle import Bundle
from eyeshine.encoding import BundleModel, Encoder, default_batch
from eyeshine.engine import CpuOptions, EngineOptions, Session, choose, engine_options
from eyeshine.errors import BundleError, FallbackWarning, OptionError
from eyeshine.explanation import Explanation, check_finite
from eyeshine.images import ImageLike, load_image
from eyeshine.methods import AnyMethod, by_passes, get_method, graph_method
from eyeshine.pipeline import Backend, Call, Pipeline, check_backend, like
from eyeshine.preprocess import Preprocess
from eyeshine.request import Clock, as_list, make_request, stack
from eyeshine.sessions import Sessions
from eyeshine.targets import Against
from eyeshine.texts import TextEncoder, check_texts
from eyeshine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from eyeshine.device import DeviceExplanation
    from eyeshine.interventions import Intervention, Sweep
    from eyeshine.metrics import Evaluation
    from eyeshine.text_side import Side, TextExplanation, TextMethod

__all__ = ["Backend", "Explainer"]

Array = NDArray[np.float32]
T = TypeVar("T")


class Explainer:
    """Explains images with one bundle. May be used from several threads.

    Sessions are made at their first use; ``warm_up`` makes them ahead.

    Args:
        bundle: an opened bundle.
        options: which engine runs it, and how; by default the CPU.
        backend: what computes the maps from the engine's signals: "reference" (NumPy, on the host) or "triton" (kernels
            on the GPU that the engine computes on; nothing but the result can leave it).
        templates: prompt templates, each with one ``{}``; several are averaged. Empty: texts as they stand.
        text_cache: how many texts the embedding cache holds, beside the labels that an evaluation asks for.
        check: compare every graph with the bundle's golden values when it is first loaded on this machine, and refuse
            an engine that computes it wrongly.
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
        backend: Backend = "reference",
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
            explainer._fell_back = missing
            warnings.warn(f"fell back to provider {options.engine}: {missing}", FallbackWarning, stacklevel=2)
        if resize is not None:
            patch = {"patch": opened.manifest.model.patch_size} if resize == "keep" else {}
            explainer.preprocess = Preprocess.from_manifest({**opened.manifest.preprocess, "resize": resize, **patch})
        return explainer

    def warm_up(self) -> None:
        """Make the sessions that ``explain`` needs by default, so that the first call is as fast as the next."""
        for name in ("image", "text"):
            self._session(name)

    @overload
    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        *,
        method: str | AnyMethod = "grad_eclip",
        against: Against = None,
        side: Literal["image", "both"] = "image",
        text_method: str | AnyMethod | None = None,
        truncate: bool = False,
        max_batch: int | None = None,
        progress: bool = False,
    ) -> Explanation: ...

    @overload
    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        *,
        method: str | AnyMethod = "grad_eclip",
        against: Against = None,
        side: Literal["text"],
        text_method: str | AnyMethod | None = None,
        truncate: bool = False,
        max_batch: int | None = None,
        progress: bool = False,
    ) -> TextExplanation: ...

    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        *,
        method: str | AnyMethod = "grad_eclip",
        against: Against = None,
        side: Side = "image",
        text_method: str | AnyMethod | None = None,
        truncate: bool = False,
        max_batch: int | None = None,
        progress: bool = False,
    ) -> Explanation | TextExplanation:
        """Explain where the model looked in each image for each text, and what it read in the text.

        Args:
            images: a path, a PIL image, or a uint8 or float (0..1) array; a list of them is a batch.
            texts: P texts, or ``TextVector``s of other models; a text that was seen before costs no text forward.
            method: a name from ``eyeshine methods``, a ``Method`` or a ``PassesMethod``.
            against: explain each text rather than these, rather than the "rest" of the texts, or rather than a contrast
                that is chosen for each image ("auto" or ``ContrastOptions``; one ``encode`` more).
            side: "image" (maps over patches), "text" (relevance of every token of the texts) or "both".
            text_method: of the text side, a key of ``text_side.TEXT_METHODS`` or a method; by default that of the same
                name as ``method``.
            truncate: accept texts that are longer than the context and cut them.
            max_batch: most images of one forward pass of a method by passes, 1..4096; the engine's nearest size is
                taken. By default what suits the engine: 8 on a CPU, 32 elsewhere. The map does not depend on it.
            progress: draw such a method's progress on stderr where it is a terminal.

        Returns:
            An ``Explanation``, with ``text_side`` where both sides were asked for; of "text" a ``TextExplanation``.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used.
            SignalError: the bundle lacks the signals that the method needs.
            EngineError: the engine is refused or failed, or a map is not finite.
        """
        read, size = None, default_batch(self.options) if max_batch is None else max_batch
        if side != "image" or text_method is not None:
            from eyeshine.text_side import choose_text_method

            for_text = choose_text_method(side, method, text_method, against)
            read = self._explain_texts(images, texts, for_text, truncate, size, warn=side == "text")
            if side == "text":
                return read
        found = self._explain_images(images, texts, method, against, truncate, size, progress)
        return found if read is None else replace(found, text_side=read)

    def _explain_images(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        method: str | AnyMethod,
        against: Against,
        truncate: bool,
        max_batch: int,
        progress: bool,
    ) -> Explanation:
        chosen = get_method(method)
        if by_passes(chosen):
            call = self._call(images, texts, chosen, against, truncate)
            maps, similarities = self._pipeline.passes(call, chosen, max_batch=max_batch, progress=progress)
            check_finite(maps, chosen.name)
            return Explanation(maps=maps, similarities=similarities, **self._facts(call, call.session.provider))
        if self.backend == "triton":
            return self.explain_on_device(images, texts, method=method, against=against, truncate=truncate).to_host()
        call = self._call(images, texts, method, against, truncate)
        outputs, provider = self._pipeline.run(call)
        maps = self._pipeline.maps(call, outputs)
        check_finite(maps, call.request.method.name)
        call.clock.lap("maps")
        similarities = outputs["similarity"][:, : len(call.request.texts)]
        return Explanation(maps=maps, similarities=similarities, **self._facts(call, provider))

    def _explain_texts(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        method: TextMethod,
        truncate: bool,
        max_batch: int,
        *,
        warn: bool,
    ) -> TextExplanation:
        from eyeshine.text_side.run import explain_texts

        facts = {} if self._fell_back is None else {"fell_back": self._fell_back}
        return explain_texts(
            self, images, texts, method,
            sessions=self._sessions, truncate=truncate, max_batch=max_batch, warn=warn, facts=facts,
        )  # fmt: skip

    def explain_on_device(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        *,
        method: str | AnyMethod = "grad_eclip",
        against: Against = None,
        truncate: bool = False,
    ) -> DeviceExplanation:
        """``explain`` with maps and similarities left on the GPU; needs ``backend="triton"``.

        Raises:
            OptionError: another backend; and as ``explain``, but maps are not looked at.
        """
        if self.backend != "triton":
            raise OptionError(
                "explaining on the device takes the Triton kernels", got=f"backend {self.backend!r}",
                cure='Explainer.load(provider="cuda", backend="triton"), or explain()',
            )  # fmt: skip
        from eyeshine.device import DeviceExplanation, wait

        method = graph_method(get_method(method))
        call = self._call(images, texts, method, against, truncate)
        with call.session.hold():
            outputs, provider = self._pipeline.run(call)
            maps = self._pipeline.maps(call, outputs)
            similarities = outputs["similarity"][:, : len(call.request.texts)].clone()
            wait(maps)
        call.clock.lap("maps")
        return DeviceExplanation(maps=maps, similarities=similarities, **self._facts(call, provider))

    def explain_cotangent(
        self,
        images: ImageLike | Sequence[ImageLike],
        cotangents: ArrayLike,
        names: Sequence[str],
        values: ArrayLike,
        *,
        method: str | AnyMethod = "grad_eclip",
    ) -> Explanation:
        """``explain`` for targets that the caller differentiates, a language model's for one; no text is encoded.

        Args:
            images: B of them, as in ``explain``.
            cotangents: dc/dO[class] of each target c, O as the signal ``gradient`` has it: [B, P, D], [P, D] for one
                image, [B, P, K, D] for a method of K blocks.
            names: of the P targets; they stand where texts stand.
            values: c, [B, P] or [P] for one image; they stand where similarities stand.
            method: one that reads gradients and no text.

        Raises:
            ImageError, TextError, OptionError, InputError: what was passed in cannot be used.
            SignalError, EngineError: as ``explain``.
        """
        from eyeshine.responder.cotangent import cotangent_request

        clock = Clock()
        preprocess, manifest = self.preprocess, self.bundle.manifest
        request, gradient, scores = cotangent_request(
            images, cotangents, names, values, method, preprocess=preprocess, manifest=manifest
        )
        clock.lap("preprocess")
        call = self._pipeline.start_without_text(request, clock)
        with call.session.hold():
            outputs, provider = self._pipeline.run(call)
            maps = self._pipeline.maps(call, {**outputs, "gradient": like(next(iter(outputs.values())), gradient)})
            on_host = maps if isinstance(maps, np.ndarray) else maps.cpu().numpy()
        check_finite(on_host, request.method.name)
        clock.lap("maps")
        return Explanation(maps=on_host, similarities=scores, **self._facts(call, provider))

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

    def evaluate(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        *,
        metrics: Any = None,
        method: str | AnyMethod = "grad_eclip",
        against: Against = None,
        truncate: bool = False,
        **truth: Any,
    ) -> Evaluation:
        """``explain``, and score the maps; ``metrics``, what else to pass and errors: see ``metrics.evaluate``."""
        from eyeshine.metrics import evaluate

        if self.preprocess.resize == "keep":
            raise OptionError(
                "metrics see images of the model's own size", got="resize keep", allowed="shortest, squash"
            )
        explanation = self.explain(images, texts, method=method, against=against, truncate=truncate)
        return evaluate(self, explanation, metrics=metrics, truncate=truncate, **truth)

    def intervene(
        self, image: ImageLike, texts: Sequence[str], *, truncate: bool = False, **changes: Any
    ) -> Intervention:
        """Change a part of the model or of the image, and compare the similarities with those of what was there.

        Args:
            image: one image.
            texts: P texts.
            truncate: accept texts that are longer than the context and cut them.
            changes: what is changed: heads, blocks, head_values, tokens, fill, region, by, depth; see
                ``interventions.Changes``.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used.
            SignalError: the bundle lacks the graphs that it takes: of the group "gates" for heads, blocks and removed
                patches, of "hidden" for regions; filled patches need neither.
            EngineError: the engine is refused or failed.
        """
        from eyeshine.interventions import Changes, intervene

        return intervene(self, self._sessions, image, texts, Changes(**changes), truncate=truncate)

    def ablate_each(
        self,
        image: ImageLike,
        texts: Sequence[str],
        what: Literal["heads", "blocks", "patches"] = "heads",
        *,
        head_values: ArrayLike | None = None,
        max_batch: int | None = None,
        truncate: bool = False,
    ) -> Sweep:
        """The similarities without each head, without each block's attention and MLP, or without each patch.

        Args:
            image: one image.
            texts: P texts.
            what: what is taken away, one after the other.
            head_values: [L, D], what stands in place of an ablated head, see ``head_means``; zeros by default.
            max_batch: most images of one forward pass, as in ``explain``.
            truncate: accept texts that are longer than the context and cut them.

        Raises:
            As ``intervene``; the bundle needs the group "gates".
        """
        from eyeshine.interventions import ablate_each

        return ablate_each(
            self, self._sessions, image, texts, what, head_values=head_values, max_batch=max_batch, truncate=truncate
        )

    def head_means(self, images: Sequence[ImageLike], *, max_batch: int | None = None) -> Array:
        """What every head mixes before the output projection, mean over tokens and images: [L, D], D all heads'.

        For mean ablation: an ablated head then writes what it writes on average, rather than nothing.

        Raises:
            ImageError, OptionError: no image, or one that cannot be used.
            SignalError: the bundle lacks the group "gates".
        """
        from eyeshine.interventions import head_means

        return head_means(self, self._sessions, images, max_batch)

    def _call(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        method: str | AnyMethod,
        against: Against,
        truncate: bool,
    ) -> Call:
        """Everything up to the run of the graph."""
        clock = Clock()
        chosen = get_method(method)
        preprocess, manifest = self.preprocess, self.bundle.manifest
        request = make_request(images, texts, chosen, against, preprocess=preprocess, manifest=manifest)
        clock.lap("preprocess")
        if by_passes(chosen):
            return self._pipeline.start_passes(request, chosen, clock, truncate=truncate)
        return self._pipeline.start(request, clock, truncate=truncate)

    def _facts(self, call: Call, provider: str) -> dict[str, Any]:
        return self._pipeline.facts(call, provider, self._fell_back)

    def _session(self, name: str) -> Session:
        return self._sessions.get(name)


def _from_bundle(read: Callable[[], T]) -> T:
    """What the manifest asks for was not the caller's choice: an option that it gets wrong is a damaged bundle."""
    try:
        return read()
    except OptionError as error:
        raise BundleError(f"manifest is malformed: {error}", cure="export the bundle again") from error
