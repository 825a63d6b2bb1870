"""What a responder is: an image and a question in, a text out; a concept in, its kinds out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from eyeshine.errors import ResponderError
from eyeshine.images import ImageLike

__all__ = ["Expander", "Responder", "Response"]


@dataclass(frozen=True)
class Response:
    """What a responder said.

    Attributes:
        text: not blank.
        tokens: as the model splits what it said, each as it spells it; None where it does not say.
        logprobs: natural logarithm of each token's probability, finite, at most 0; None where it does not say.
        model: which model answered, in its server's words.
        wall_ms: from the question to the answer, retries included.
        complete: False where the answer was cut at the largest number of tokens.

    Raises:
        ResponderError: a blank text, as many log-probabilities as there are not tokens, or one that is none.
    """

    text: str
    tokens: tuple[str, ...] | None
    logprobs: tuple[float, ...] | None
    model: str
    wall_ms: float
    complete: bool = True

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ResponderError(f"model {self.model} answered nothing", got=repr(self.text), cure="ask otherwise")
        if self.logprobs is None:
            return
        if self.tokens is None or len(self.tokens) != len(self.logprobs):
            got = f"{len(self.logprobs)} for {'no' if self.tokens is None else len(self.tokens)} tokens"
            raise ResponderError("log-probabilities and tokens differ in number", got=got, allowed="one each")
        wrong = [value for value in self.logprobs if not (math.isfinite(value) and value <= 0)]
        if wrong:
            raise ResponderError("not the logarithm of a probability", got=wrong[0], allowed="finite, at most 0")


class Expander(Protocol):
    """Knows the kinds of a concept."""

    def expand(self, concept: str) -> list[str]:
        """Kinds of a concept, texts as they would be explained ("vehicle": car, bus, truck); none where none is known.

        Raises:
            TextError: a blank concept.
            ResponderError: whoever is asked cannot be reached, or answers something else.
        """
        ...


class Responder(Expander, Protocol):
    """Describes images, and knows the kinds of a concept."""

    def respond(self, image: ImageLike, prompt: str) -> Response:
        """Answer a prompt about an image.

        Raises:
            ImageError: not an image.
            TextError: a blank prompt.
            ResponderError: whoever is asked cannot be reached, or answers something else.
        """
        ...
