"""What the captioner says: a response and the log-probability of each of its words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Response"]


@dataclass(frozen=True)
class Response:
    """A response to a prompt.

    Attributes:
        text: the words joined.
        tokens: its R words, without the end.
        logprobs: natural logarithm of each word's probability, at most 0, given the image, the prompt and the words
            before it.
        model: name of the captioner.
        wall_ms: of the call that made it.
        complete: False where the answer was cut at the longest length; a response that was given counts as complete.
    """

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    model: str
    wall_ms: float
    complete: bool = True
