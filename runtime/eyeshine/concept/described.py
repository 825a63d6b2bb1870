"""Candidates from a description: what a captioner or a language model says is in an image (the paper's future work)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eyeshine.dual.concepts import extract_concepts, subjects
from eyeshine.errors import ResponderError
from eyeshine.images import ImageLike

if TYPE_CHECKING:
    from eyeshine.responder import Responder

__all__ = ["QUESTION", "described"]

QUESTION = "what is on the road?"
"""What the embedded model's captioner understands; a language model takes any wording."""


def described(responder: Responder, image: ImageLike, question: str = QUESTION) -> tuple[str, ...]:
    """The things that a responder names in an image, as candidates for ``ContrastOptions``.

    Args:
        responder: answers.
        image: of what.
        question: asks for what is there.

    Raises:
        ResponderError: it cannot be reached, or its answer names nothing.
    """
    answer = responder.respond(image, question).text
    found = tuple(dict.fromkeys(concept.text for concept in subjects(extract_concepts(answer))))
    if not found:
        raise ResponderError("the description names nothing", got=repr(answer), cure="ask another question")
    return found
