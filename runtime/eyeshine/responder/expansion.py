"""Linguistic context in a text's vector: a concept and its kinds as a weighted mean of their embeddings.

CLIP does not know that a vehicle may be a car, a bus or a truck. Concept Attribution (section G) has a language model
say so and calls the outcome "linguistic context projected into CLIP space", without a formula. Here it is
``v = normalise((1 - w) t + w mean_j t_j)`` with unit embeddings t of the concept and t_j of its kinds: the cosine with
v is, up to one factor, the weighted mean of the cosines with the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError, TextError
from eyeshine.responder.base import Expander
from eyeshine.texts import TextVector, check_texts

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Added", "ExpandedText", "expand_text", "expanded_vector"]

_CANCELLED: Final = 1e-3
"""Mean of unit vectors: shorter than this it points where the rounding of its summands says."""


@dataclass(frozen=True)
class Added:
    """A text that was added, and its share of the mean, 0..1."""

    text: str
    weight: float


@dataclass(frozen=True, eq=False)
class ExpandedText:
    """A concept with its kinds.

    Attributes:
        concept: as it was given.
        concept_weight: its share of the mean, 0..1.
        added: what was added; empty where no kind is known, and then ``vector`` is the concept's own.
        left_out: kinds with words that the bundle's model never saw.
        vector: named after the concept; goes wherever a text goes.
    """

    concept: str
    concept_weight: float
    added: tuple[Added, ...]
    left_out: tuple[str, ...]
    vector: TextVector

    def __str__(self) -> str:
        """What was added, on one line: "vehicle: 0.50 vehicle + 0.25 car + 0.25 bus"."""
        parts = [Added(self.concept, self.concept_weight), *self.added]
        line = " + ".join(f"{part.weight:.2f} {part.text}" for part in parts if part.weight)
        without = f"; left out, never seen by the model: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.concept}: {line if self.added else 'nothing to add'}{without}"


def expanded_vector(
    encode_texts: Callable[[list[str]], NDArray[np.floating]],
    concept: str,
    expansions: Sequence[str],
    weight: float = 0.5,
    left_out: Sequence[str] = (),
) -> ExpandedText:
    """The weighted mean of a concept's embedding and those of its kinds, of length 1.

    Args:
        encode_texts: texts to unit vectors [P, E]: ``Explainer.encode_texts``.
        concept: a text.
        expansions: its kinds, M texts; none leaves the concept as it is.
        weight: w, 0..1: share of the kinds together, each w/M. 1 leaves the concept's own word out, for a model that
            never saw it.
        left_out: kinds that the caller knows and did not add, for the report.

    Raises:
        TextError: a blank text, or texts that cancel each other out.
        OptionError: a weight outside 0..1.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise OptionError("weight of the kinds is out of range", got=repr(weight), allowed="0..1")
    kinds = check_texts(expansions, "expansion") if len(expansions) else []
    share = float(weight) if kinds else 0.0
    check_texts([concept], "concept")
    parts = [Added(concept, 1 - share), *(Added(kind, share / len(kinds)) for kind in kinds)]
    # A text of weight 0 is not encoded: its words may be such that the model warns of them.
    used = [part for part in parts if part.weight > 0]
    vectors = np.asarray(encode_texts([part.text for part in used]), dtype=np.float64)
    mean = np.array([part.weight for part in used]) @ vectors
    if np.linalg.norm(mean) < _CANCELLED:
        raise TextError("the concept and its kinds cancel each other out", got=concept, cure="another weight")
    return ExpandedText(
        concept=concept,
        concept_weight=1 - share,
        added=tuple(parts[1:]) if share else (),
        left_out=tuple(left_out),
        vector=TextVector(concept, mean),
    )


def expand_text(
    explainer: Explainer, concept: str, expander: Expander, *, weight: float = 0.5, truncate: bool = False
) -> ExpandedText:
    """Ask for a concept's kinds and make its vector; kinds that the model never saw are left out, and reported.

    Args:
        explainer: whose texts they are.
        concept: a text.
        expander: a ``HypernymTable`` or a responder.
        weight: as in ``expanded_vector``.
        truncate: accept texts that are longer than the context and cut them.

    Raises:
        TextError, OptionError: as ``expanded_vector``.
        ResponderError: as ``expander.expand``.
    """
    kinds = expander.expand(concept)
    unseen = [kind for kind in kinds if explainer.texts.tokenizer.unknown_words(kind)]
    known = [kind for kind in kinds if kind not in unseen]
    return expanded_vector(partial(explainer.encode_texts, truncate=truncate), concept, known, weight, unseen)
