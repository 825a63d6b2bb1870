"""Where in an image a concept is, and where it speaks for a text: methods that are made from a concept vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.methods.passes import Model, Subject
from eyeshine.methods.tails import directions, hidden_tokens, state_gradients, tail_graphs
from eyeshine.tcav.vector import ConceptVector
from eyeshine_kernels.products import matmul

__all__ = ["ConceptEvidence", "ConceptMap"]


@dataclass(frozen=True)
class ConceptMap:
    """``S_i = <X_i, v> + b``: how far patch i lies on the concept's side of the boundary; the same for every text.

    Given to ``Explainer.explain`` as its method. A vector of mean patches fits patches; one of the class token need
    not, and its map says how much of that direction patches hold.

    Attributes:
        concept: the vector v and its offset b.
    """

    concept: ConceptVector

    name: ClassVar[str] = "concept_map"
    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = False
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Kim et al., TCAV, ICML 2018, for the vector"

    @property
    def graphs(self) -> frozenset[str]:
        """``hidden`` and the tail of so many blocks."""
        return tail_graphs(self.concept.blocks)

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float32]:
        """Maps [P, N], signed."""
        along = self.along(hidden_tokens(subject, model, self.concept.blocks))
        return np.repeat(along[None], len(subject.targets), axis=0)

    def along(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens [T, D] to the place of every patch along the concept, [N].

        Raises:
            OptionError: tokens of another width.
        """
        if tokens.shape[1] != len(self.concept.direction):
            got, allowed = tokens.shape[1], str(len(self.concept.direction))
            raise OptionError(f"concept {self.concept.name!r} is of another model", got=got, allowed=allowed)
        place: NDArray[np.float32] = matmul(tokens[1:], self.concept.direction) + np.float32(self.concept.offset)
        return place


@dataclass(frozen=True)
class ConceptEvidence(ConceptMap):
    """``S_i = (<X_i, v> + b) <dc/dX_i, v>``: what patch i's place along the concept adds to the score, to first order.

    Attributes:
        concept: the vector v and its offset b.
    """

    name: ClassVar[str] = "concept_evidence"
    signals: ClassVar[frozenset[str]] = frozenset({"hidden", "state_gradient"})
    uses_text: ClassVar[bool] = True

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float32]:
        """Maps [P, N], signed."""
        tokens = hidden_tokens(subject, model, self.concept.blocks)
        texts, lengths = directions(subject)
        gradient = state_gradients(model, self.concept.blocks, tokens[None], texts)[0, :, 1:]
        slope: NDArray[np.float32] = matmul(gradient, self.concept.direction) * lengths.astype(np.float32)[:, None]
        return self.along(tokens) * slope
