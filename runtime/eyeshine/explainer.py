"""The facade: load a bundle, explain images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.backend import Backend
from eyeshine.encoding import default_batch
from eyeshine.errors import OptionError
from eyeshine.explanation import Explanation
from eyeshine.image_side import explain_cotangents, explain_images, explain_on_device
from eyeshine.images import ImageLike
from eyeshine.intervening import Intervening
from eyeshine.methods import AnyMethod, by_passes, get_method, graph_method
from eyeshine.pipeline import Call
from eyeshine.request import Clock, make_request
from eyeshine.targets import Against

if TYPE_CHECKING:
    from eyeshine.device import DeviceExplanation
    from eyeshine.metrics import Evaluation
    from eyeshine.text_side import Side, TextExplanation
    from eyeshine.text_side.run import TextCall

__all__ = ["Backend", "Explainer"]


class Explainer(Intervening):
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
        size, read = default_batch(self.options) if max_batch is None else max_batch, None
        if side != "image" or text_method is not None:
            from eyeshine.text_side import choose_text_method
            from eyeshine.text_side.run import start_texts

            for_text = choose_text_method(side, method, text_method, against)
            read = start_texts(
                self, self._sessions, texts, for_text, truncate=truncate, max_batch=size, warn=side == "text"
            )
            if side == "text":
                return self._explain_texts(read, images, size)
        call = self._call(images, texts, get_method(method), against, truncate, embedding=read is not None)
        found, vectors = explain_images(self._pipeline, call, max_batch=size, progress=progress)
        return found if read is None else replace(found, text_side=self._explain_texts(read, images, size, vectors))

    def _explain_texts(
        self,
        call: TextCall,
        images: ImageLike | Sequence[ImageLike],
        max_batch: int,
        vectors: NDArray[np.float32] | None = None,
    ) -> TextExplanation:
        from eyeshine.text_side.run import explain_texts

        fell_back = self._pipeline.fell_back
        facts = {} if fell_back is None else {"fell_back": fell_back}
        return explain_texts(self, call, images, vectors, max_batch=max_batch, facts=facts)

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
        call = self._call(images, texts, graph_method(get_method(method)), against, truncate)
        return explain_on_device(self._pipeline, call)

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
        return explain_cotangents(self._pipeline, call, gradient, scores)

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

    def _call(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: Sequence[str],
        method: AnyMethod,
        against: Against,
        truncate: bool,
        *,
        embedding: bool = False,
    ) -> Call:
        """Everything up to the first run of a graph that explains."""
        clock = Clock()
        preprocess, manifest = self.preprocess, self.bundle.manifest
        request = make_request(images, texts, method, against, preprocess=preprocess, manifest=manifest)
        clock.lap("preprocess")
        if by_passes(method):
            return self._pipeline.start_passes(request, method, clock, truncate=truncate)
        return self._pipeline.start(request, clock, truncate=truncate, embedding=embedding)
