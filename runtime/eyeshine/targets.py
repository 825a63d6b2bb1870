"""What is explained: a text, or a text rather than others.

The gradient is linear in the (unit) text vector. Explaining ``cos(image, t) - mean_j cos(image, a_j)`` therefore needs
no second pass: it is the same linear combination of the gradients that the graph yields for t and the a_j.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.texts import check_texts
from eyeshine_kernels.products import matmul

__all__ = ["Against", "Target", "make_target", "with_others"]


class ContrastChoice(Protocol):
    """Settings of an automatic choice: ``eyeshine.concept.ContrastOptions``."""

    @property
    def candidates(self) -> Any: ...

    @property
    def top(self) -> int: ...


Against = Sequence[str] | Literal["rest", "auto"] | ContrastChoice | None


@dataclass(frozen=True)
class Target:
    """One linear combination of prompts per explained text.

    Attributes:
        name: as it stands in results.
        prompts: the texts that the graph is given: the P explained ones, as often as they are asked for, then others,
            each once.
        weights: [P, len(prompts)], or [B, P, len(prompts)] where every image has its own; row p makes the target of
            text p. None for the text alone.
    """

    name: str
    prompts: tuple[str, ...]
    weights: NDArray[np.float32] | None

    def combine(self, gradient: Any) -> Any:
        """[B, len(prompts), ...] -> [B, P, ...]; NumPy's or torch's, as it came."""
        if self.weights is None:
            return gradient
        weights = self.weights if isinstance(gradient, np.ndarray) else gradient.new_tensor(self.weights)
        images, prompts, *rest = gradient.shape
        return matmul(weights, gradient.reshape(images, prompts, -1)).reshape(images, weights.shape[-2], *rest)

    def vectors(self, prompts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors [len(prompts), E] -> [P, E] or [B, P, E], by which a unit image embedding gives the score."""
        return prompts if self.weights is None else matmul(self.weights, prompts)


def make_target(texts: Sequence[str], against: Against) -> Target:
    """Build the target of a call.

    Args:
        texts: the explained texts.
        against: None (the text alone), other texts, or "rest" (the other texts of the call).

    Raises:
        OptionError: "rest" with a single text, an empty list, a string that is not "rest", or a text against itself
            alone.
    """
    count = len(texts)
    if against is None:
        return Target("text", tuple(texts), None)
    if isinstance(against, str):
        if against != "rest":
            raise OptionError(
                "against must be a list of texts, 'rest' or 'auto'", got=repr(against), cure=f"against=[{against!r}]"
            )
        if len(set(texts)) < 2:
            raise OptionError("against='rest' needs another text", got=repr(texts[0]), cure="pass two texts or more")
        rest = (np.full((count, count), -1.0) + np.eye(count)) / (count - 1) + np.eye(count)
        return Target("text against the rest", tuple(texts), rest.astype(np.float32))
    if not isinstance(against, Iterable):
        raise OptionError("against must be a list of texts or 'rest'", got=type(against).__name__)
    others = list(against)
    if not others:
        raise OptionError("against is empty", allowed="texts, 'rest', or None for the text alone")
    check_texts(others, "against text")
    prompts = with_others(texts, others)
    weights = np.zeros((count, len(prompts)), dtype=np.float32)
    for row, text in enumerate(texts):
        if set(others) == {text}:
            raise OptionError("a text cannot be explained against itself alone", got=repr(text))
        weights[row, row] += 1
        for other in others:
            weights[row, prompts.index(other)] -= 1 / len(others)
    return Target(f"text against {', '.join(repr(other) for other in others)}", tuple(prompts), weights)


def with_others(texts: Sequence[str], others: Iterable[str]) -> list[str]:
    """The explained texts as they are, then what of the others is not among them, each once."""
    return [*texts, *dict.fromkeys(other for other in others if other not in texts)]
