"""NIB: integrated gradients of the tokens before the last blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_truth, check_whole
from eyeshine.methods.passes import Model, Subject
from eyeshine.methods.tails import LONGEST, Tail, batches, image_tail, tail_graphs, text_tail

__all__ = ["Nib"]


@dataclass(frozen=True)
class Nib:
    """``S_i = 1/n sum_{k=1..n} <X_i, g_i(k X / n)>``, X the tokens before the last blocks, g(Z) = dc/dZ.

    Integrated gradients from a baseline of zero: g is the derivative at the point between, without the factor k/n that
    a derivative by X itself would have, so that all tokens together approach c(X) - c(0) as n grows. All n points are
    one batch. Deterministic and signed.

    Attributes:
        steps: n, 1..1000.
        blocks: that lie above X, 2..3; the authors' is 3. With one, patches reach the class token through a LayerNorm
            alone, which does not change along kX/n: their evidence would be rounding, 1e-7 (measured).
        positive: keep positive values only. The authors' code keeps the signed map and brings it to 0..1.
    """

    steps: int = 10
    blocks: int = 3
    positive: bool = False

    name: ClassVar[str] = "nib"
    signals: ClassVar[frozenset[str]] = frozenset({"hidden", "state_gradient"})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Zhu et al., Narrowing Information Bottleneck Theory for Multimodal Models, ICLR 2025"

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 1000)
        check_whole("blocks", self.blocks, 2, LONGEST)
        check_truth("positive", self.positive)

    @property
    def signed(self) -> bool:
        """Whether values may be negative."""
        return not self.positive

    @property
    def graphs(self) -> frozenset[str]:
        """``hidden`` and the tail of so many blocks."""
        return tail_graphs(self.blocks)

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float64]:
        """Maps [P, N]."""
        return self._evidence(image_tail(subject, model, self.blocks), model)[:, 1:]

    def explain_text(self, ids: NDArray[np.int64], images: NDArray[np.float32], model: Model) -> NDArray[np.float64]:
        """Relevance [B, N] of the tokens between start and end of a text, ids [L], for images [B, E]."""
        return self._evidence(text_tail(ids, images, model, self.blocks), model)[:, 1:-1]

    def _evidence(self, tail: Tail, model: Model) -> NDArray[np.float64]:
        """[P, T], of every token."""
        shares = (np.arange(1, self.steps + 1) / self.steps).astype(np.float32)[:, None, None]
        total = np.zeros((len(tail.targets), *tail.tokens.shape), np.float32)
        parts = batches(self.steps, model)
        for part in model.track(parts, len(parts), self.name):
            total += tail.gradients(shares[part] * tail.tokens, tail.targets).sum(axis=0)
        evidence: NDArray[np.float64] = np.einsum("td,ptd->pt", tail.tokens, total) * tail.lengths[:, None] / self.steps
        return np.maximum(evidence, 0) if self.positive else evidence
