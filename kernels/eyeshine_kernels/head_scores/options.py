"""Which heads are candidates, how they are scored and how many are chosen; and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Final, Generic, Literal, TypeAlias, TypeVar, get_args

from eyeshine_kernels.backend import KernelError

__all__ = ["FLAT", "HeadScoreOptions", "HeadScores", "Penalty", "Strategy"]

Strategy: TypeAlias = Literal["layers", "heads", "both"]
Penalty: TypeAlias = Literal["previous", "max"]
T = TypeVar("T")

# Relevances count as equal where their deviation is below this share of the largest of them: the mean of equal numbers
# is off by a few units of 6e-8, and a z-score would blow that up to a ranking of pure noise.
FLAT: Final = 1e-6

_MOST_WEIGHT: Final = 1e3


@dataclass(frozen=True, kw_only=True)
class HeadScoreOptions:
    """Settings of ``head_scores``; names and defaults of Concept Attribution (eq. 1, section III-E).

    Attributes:
        strategy: "layers" takes all heads of the last ``blocks`` blocks and chooses none; "heads" the best ``top`` of
            the last block; "both" the best ``top`` of the last ``blocks`` blocks.
        blocks: of "layers" and "both", at least 1; not read by "heads".
        top: how many heads are chosen, at least 1; not read by "layers".
        head_alpha: weight of the relevance, the paper's alpha, 0..1000.
        head_beta: weight of the penalty, the paper's beta, 0..1000; 0 ranks by relevance alone.
        penalty: cosine with the head chosen just before ("previous", as printed) or the largest cosine with any head
            chosen so far ("max", maximal marginal relevance).

    Raises:
        KernelError: a value outside what is allowed.
    """

    strategy: Strategy = "both"
    blocks: int = 4
    top: int = 10
    head_alpha: float = 1.0
    head_beta: float = 0.5
    penalty: Penalty = "previous"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("strategy", self.strategy, get_args(Strategy)),
            ("penalty", self.penalty, get_args(Penalty)),
        ):
            if value not in allowed:
                raise KernelError(f"unknown {name}: got {value!r}, allowed {', '.join(allowed)}")
        for name in ("blocks", "top"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise KernelError(f"{name}: got {count!r}, allowed a whole number from 1")
        for name in ("head_alpha", "head_beta"):
            weight = getattr(self, name)
            number = isinstance(weight, Real) and not isinstance(weight, bool) and math.isfinite(weight)
            if not number or not 0 <= weight <= _MOST_WEIGHT:
                raise KernelError(f"{name}: got {weight!r}, allowed 0..{_MOST_WEIGHT:g}")

    @property
    def candidate_blocks(self) -> int:
        """How many of the last blocks have heads to choose from."""
        return 1 if self.strategy == "heads" else self.blocks

    def chosen(self, candidates: int) -> int:
        """How many of ``candidates`` heads are in the selection."""
        return candidates if self.strategy == "layers" else self.top


@dataclass(frozen=True, eq=False)
class HeadScores(Generic[T]):
    """What ``head_scores`` found: NumPy arrays or torch tensors, float32 but for the indices.

    C = K' * H candidates are the heads of the last K' blocks; candidate k * H + h is head h of block k of those.
    A prompt whose scores hold a NaN (from a NaN or an infinity in the inputs) chooses nothing from there on: indices
    -1, scores NaN, and all its weights are NaN, so that what is weighed by them shows it.

    Attributes:
        indices: [B, P, k], int64, candidates in the order of choice, of equal scores the smallest; ascending where
            nothing is chosen (strategy "layers").
        scores: [B, P, k], head_alpha * z-score - head_beta * penalty at the moment of choice; there is no penalty for
            the first head, nor where nothing is chosen.
        relevance: [B, P, K', H], <contribution, text>: a share of the cosine where text and scale are unit and
            1 / (sigma |e|).
        standardised: [B, P, K', H], z-scores of the relevance over the C candidates; 0 where all are equal.
        weights: [B, P, K', H], 1/k for the k heads of the selection, else 0; sums to 1.
        contributions: [B, K', H, E], what each head writes into the joint space.
    """

    indices: T
    scores: T
    relevance: T
    standardised: T
    weights: T
    contributions: T
