"""A dual request: explain what was asked and what was answered, compare, decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.concept import load_candidates
from eyeshine.dual.comparison import compare
from eyeshine.dual.concepts import Concept, concept_of, extract_concepts, subjects
from eyeshine.dual.options import DualOptions
from eyeshine.dual.result import Dual
from eyeshine.dual.scores import Found, evaluate_concepts
from eyeshine.dual.side import Side, presence, read_signals
from eyeshine.dual.verdict import decide
from eyeshine.errors import OptionError, ResponderError
from eyeshine.images import ImageLike, load_image
from eyeshine.request import Clock
from eyeshine.texts import check_texts

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Answerer", "explain_dual"]


Array = NDArray[np.float32]


class Answerer(Protocol):
    """Whoever describes an image; every ``eyeshine.responder.Responder`` is one."""

    def respond(self, image: ImageLike, prompt: str) -> Any:
        """Something with a ``text``."""
        ...


def explain_dual(
    explainer: Explainer,
    image: ImageLike,
    prompt: str,
    answer: str | None = None,
    *,
    responder: Answerer | None = None,
    blind_answer: str | None = None,
    options: DualOptions | None = None,
) -> Dual:
    """Explain a prompt and its answer on one image, and judge how the answer rests on the image.

    All concepts are explained in one pass; the paper's section III-J, verdicts by ``decide``.

    Args:
        explainer: of any bundle; see ``Thresholds`` about models other than roads.
        image: what ``Explainer.explain`` takes.
        prompt: what was asked.
        answer: what was answered; nobody is asked then. By default the responder is.
        responder: whom to ask; a second time, with the image replaced by its mean colour, unless ``ask_blind`` is off.
        blind_answer: what was answered to the prompt without the image, where that is known.
        options: how.

    Raises:
        ImageError, TextError: an image or a text that cannot be used.
        OptionError: neither answer nor responder.
        ResponderError: the responder cannot be reached, or answers something that is no text.
        EngineError: the engine failed.
    """
    chosen, clock = options or DualOptions(), Clock()
    photo = load_image(image)
    check_texts([prompt], "prompt")
    answer, blind_answer = _answers(photo, prompt, answer, responder, blind_answer, chosen)
    clock.lap("responder")
    asked, said = _known(explainer, prompt), _known(explainer, answer)
    blind = None if blind_answer is None else _vectors(explainer, _known(explainer, blind_answer)[0])
    own = list(dict.fromkeys(concept.text for concept in (*asked[0], *said[0])))
    candidates = load_candidates(chosen.candidates)
    texts = list(dict.fromkeys([*own, *candidates]))
    explanation = explainer.explain(photo, texts, method=chosen.method)
    clock.lap("explanation")
    cosines = explanation.similarities[0]
    listed = cosines[[texts.index(candidate) for candidate in candidates]]
    odds = presence(cosines, listed, explainer.bundle.manifest.model.logit_scale)
    found = Found(
        texts, odds, np.maximum(explanation.maps[0], 0), chosen.tau
    )  # a signed map's evidence against is none
    prompted, answered = _side(explainer, found, prompt, asked), _side(explainer, found, answer, said)
    signals = read_signals(
        prompted, answered, image=max(found.odds_of(candidate) for candidate in candidates), blind=blind
    )
    verdict = decide(signals, chosen.thresholds)
    clock.lap("verdict")
    evaluation = evaluate_concepts(explainer, explanation, own, found, chosen) if chosen.metrics and own else None
    clock.lap("metrics")
    return Dual(
        asked=prompted,
        said=answered,
        blind_answer=blind_answer,
        comparison=compare(prompted.map, answered.map, chosen.tau),
        signals=signals,
        verdict=verdict,
        explanation=explanation,
        evaluation=evaluation,
        timings_ms=clock.timings_ms(),
    )


def _answers(
    photo: NDArray[np.uint8],
    prompt: str,
    answer: str | None,
    responder: Answerer | None,
    blind_answer: str | None,
    options: DualOptions,
) -> tuple[str, str | None]:
    """The answer, and what was answered without the image, as far as they are given or can be asked for."""
    if answer is not None:
        return answer, blind_answer
    if responder is None:
        raise OptionError("nobody answers the prompt", got="no answer", cure="pass an answer, or a responder to ask")
    answer = _ask(responder, photo, prompt)
    if options.ask_blind and blind_answer is None:
        mean = photo.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
        blind_answer = _ask(responder, np.broadcast_to(mean, photo.shape).copy(), prompt)
    return answer, blind_answer


def _ask(responder: Answerer, photo: NDArray[np.uint8], prompt: str) -> str:
    try:
        response = responder.respond(photo, prompt)
    except OSError as error:  # a responder of the caller's own; ours raise ResponderError themselves
        cure = "check its address, or pass the answer"
        raise ResponderError("the responder cannot be reached", got=str(error), cure=cure) from error
    text = getattr(response, "text", None)
    if not isinstance(text, str) or not text.strip():
        raise ResponderError("the responder answered no text", got=repr(response)[:200], allowed="a text, not blank")
    return text


def _known(explainer: Explainer, text: str) -> tuple[tuple[Concept, ...], tuple[str, ...]]:
    """The concepts of a text in the words that the model knows, and the phrases whose noun it does not know."""
    unknown_words = explainer.texts.tokenizer.unknown_words
    known, unknown = [], []
    for concept in extract_concepts(text):
        missing = unknown_words(concept.phrase)
        if not missing:
            known.append(concept)
        elif unknown_words(concept.head):
            unknown.append(concept.phrase)
        else:  # "a shiny car" is a car to a model that never read of shiny ones
            known.append(concept_of(" ".join(word for word in concept.phrase.split() if word not in missing)))
    return subjects(known), tuple(unknown)


def _side(explainer: Explainer, found: Found, text: str, concepts: tuple[tuple[Concept, ...], tuple[str, ...]]) -> Side:
    rows = [found.texts.index(concept.text) for concept in concepts[0]]
    vectors = _vectors(explainer, concepts[0])
    return Side(text, *concepts, found.maps[rows], found.odds[rows], vectors, found.tau)


def _vectors(explainer: Explainer, concepts: Sequence[Concept]) -> Array:
    if not concepts:
        return np.zeros((0, explainer.bundle.manifest.model.embed_dim), np.float32)
    return explainer.encode_texts([concept.text for concept in concepts])
