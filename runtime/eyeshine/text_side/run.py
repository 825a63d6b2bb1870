"""From images and texts to relevance per token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.engine import Session
from eyeshine.errors import SignalError
from eyeshine.explanation import check_finite
from eyeshine.images import ImageLike, load_image
from eyeshine.methods.passes import Model
from eyeshine.request import Clock, as_list
from eyeshine.sessions import Sessions
from eyeshine.signals import last_blocks
from eyeshine.text_side.base import READ, TextMethod, text_signals
from eyeshine.text_side.result import TextExplanation
from eyeshine.text_side.tails import by_tails, explain_by_tails
from eyeshine.texts import check_texts
from eyeshine.tokenizer import Pieces

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["GRAPH", "TextCall", "check_blocks_of", "explain_texts", "explain_tokens", "graph_of", "start_texts"]

Array = NDArray[np.float32]

GRAPH: Final = "words"
_IMAGES, _PAIRS = 32, 256
"""Most images, and pairs of image and text, of one run: a gradient of every token of every pair is 160 KB at B/16."""


def check_blocks_of(bundle: Bundle, method: TextMethod) -> int:
    """How many of the last text blocks a method reads in this bundle.

    Raises:
        SignalError: the bundle has no such graph, or explains fewer blocks; the message names the export command.
    """
    explained = len(bundle.graph(GRAPH).outputs["text_gradient"].blocks or ())
    if method.blocks > explained:
        raise SignalError(
            f"bundle {bundle.name} does not explain so many text blocks",
            got=f"{method.blocks} for method {method.name}", allowed=f"up to {explained}",
            cure=f"eyeshine export MODEL --layers {method.blocks} --signals words --out FOLDER, if the tower has them",
        )  # fmt: skip
    return method.blocks or explained


def graph_of(bundle: Bundle, method: TextMethod) -> tuple[str, int]:
    """The graph that explains texts by a method, and how many of the last blocks the method reads.

    Raises:
        SignalError: the bundle lacks it, or explains fewer blocks; the message names the export command.
    """
    if not by_tails(method):
        return GRAPH, check_blocks_of(bundle, method)
    graph = f"text_tail_{method.blocks}"
    bundle.graph(graph)
    return graph, method.blocks


@dataclass(frozen=True, eq=False)
class TextCall:
    """Texts of a call, checked and cut into tokens, with the session that will explain them.

    Attributes:
        texts: the P texts.
        pieces: their tokens.
        method: of the text side.
        graph: name of the graph.
        blocks: how many of the last blocks the method reads.
        session: of the graph.
        model: where the method runs the tower itself.
        clock: of the call.
    """

    texts: tuple[str, ...]
    pieces: tuple[Pieces, ...]
    method: TextMethod
    graph: str
    blocks: int
    session: Session
    model: Model | None
    clock: Clock


def start_texts(
    explainer: Explainer, sessions: Sessions, texts: Sequence[str], method: TextMethod,
    *, truncate: bool, max_batch: int, warn: bool,
) -> TextCall:  # fmt: skip
    """Everything of the texts that can be refused, before an image is read.

    Args:
        explainer: gives bundle and tokenizer.
        sessions: of the bundle.
        texts, truncate, max_batch: as ``Explainer.explain`` takes them.
        method: of the text side.
        warn: of words that the model never saw.

    Raises:
        TextError, OptionError, SignalError, EngineError: as ``Explainer.explain``.
    """
    clock = Clock()
    listed = check_texts(texts)
    pieces = explainer.texts.pieces(listed, truncate=truncate, warn=warn)
    graph, blocks = graph_of(explainer.bundle, method)
    clock.lap("text")
    model = explainer.model(max_batch) if by_tails(method) else None
    session = sessions.get(graph)
    clock.lap("load")
    return TextCall(tuple(listed), tuple(pieces), method, graph, blocks, session, model, clock)


def explain_texts(
    explainer: Explainer, call: TextCall, images: ImageLike | Sequence[ImageLike], vectors: Array | None,
    *, max_batch: int, facts: Mapping[str, Any],
) -> TextExplanation:  # fmt: skip
    """Explain the texts for the images.

    Args:
        explainer: gives bundle, preprocessing and engine.
        call: started on it.
        images, max_batch: as ``Explainer.explain`` takes them.
        vectors: [B, E], of the images, where the image side has them already; else they are encoded here.
        facts: what else ``engine`` says in the result.

    Raises:
        ImageError, OptionError, EngineError: as ``Explainer.explain``.
    """
    clock, method = call.clock, call.method
    if vectors is None:
        vectors = _encoded(explainer, as_list(images), max_batch)
        clock.lap("images")
    else:
        clock.skip()  # that was the image side
    if call.model is not None and by_tails(method):
        relevance, similarities = explain_by_tails(call.pieces, vectors, method, call.model)
    else:
        relevance, similarities = explain_tokens(call.session, call.pieces, vectors, method, call.blocks)
    clock.lap("graph")
    return TextExplanation(
        texts=call.texts, pieces=call.pieces, relevance=relevance, similarities=similarities, method=method.name,
        signed=bool(getattr(method, "signed", False)), bundle=explainer.bundle.name, timings_ms=clock.timings_ms(),
        engine={**explainer.options.metadata(), "provider": call.session.provider, "graph": call.graph, **facts},
    )  # fmt: skip


def _encoded(explainer: Explainer, images: Sequence[ImageLike], max_batch: int) -> Array:
    """[B, E]; images that keep their sizes go one by one."""
    if explainer.preprocess.resize == "keep":
        return np.concatenate([explainer.encode_images(image) for image in images])
    frames = (explainer.preprocess.prepare(load_image(image)).pixels for image in images)
    return np.stack(list(explainer.encoder(max_batch).stream(frames)))


def explain_tokens(
    session: Session, pieces: Sequence[Pieces], images: Array, method: TextMethod, blocks: int
) -> tuple[Array, Array]:
    """Run the graph on texts of one length at a time, so that nothing is padded, and let the method make its values.

    Args:
        session: of the graph ``words``.
        pieces: P texts, at least one token each.
        images: [B, E], image vectors.
        method: of the text side.
        blocks: how many of the last blocks it reads.

    Returns:
        Relevance [B, P, N], padded with zeros to the longest text, and cosines [B, P].

    Raises:
        EngineError: the engine failed, or a value is not finite.
    """
    counts = np.array([len(each.names) for each in pieces])
    relevance = np.zeros((len(images), len(pieces), counts.max()), np.float32)
    similarities = np.empty((len(images), len(pieces)), np.float32)
    whole = bool(getattr(method, "released", False))
    asked = sorted({"text_similarity", *(name for field in method.signals for name in READ[field])})
    for count in np.unique(counts):
        tokens = int(count)
        for rows, columns in _parts(np.flatnonzero(counts == count), len(images)):
            ids = np.stack([pieces[row].row if whole else pieces[row].row[: tokens + 2] for row in rows])
            outputs = session.run({"tokens": ids, "image": images[columns]}, asked).outputs
            similarities[columns, rows] = outputs["text_similarity"].T
            last = {name: last_blocks(name, outputs[name], blocks) for name in asked}
            signals = text_signals(last, frozenset(method.signals), tokens, whole=whole)
            values = method.maps(signals, len(images[columns]))
            check_finite(values, method.name)
            relevance[columns, rows, :tokens] = values.transpose(1, 0, 2)
    return relevance, similarities


def _parts(rows: NDArray[np.intp], images: int) -> Iterator[tuple[Any, slice]]:
    """Texts and images of every run, so that no run has too many pairs."""
    texts = max(1, _PAIRS // min(images, _IMAGES))
    for first in range(0, images, _IMAGES):
        for start in range(0, len(rows), texts):
            yield rows[start : start + texts], slice(first, first + _IMAGES)
