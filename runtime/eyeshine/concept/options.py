"""Settings of Concept Attribution, with the paper's names and defaults, and what of them is a reading."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

from eyeshine.errors import OptionError
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.head_scores import HeadScoreOptions, Penalty, Strategy
from eyeshine_kernels.normalize import Boost, NormalizeOptions

__all__ = ["BACKGROUNDS", "ConceptOptions"]

BACKGROUNDS: Final = {"off": 0.0, "subtle": 0.2, "aggressive": 0.5}
"""Background suppression by name: the middles of the paper's .1 to .3 and .4 to .6 (section III-I)."""


@dataclass(frozen=True, kw_only=True)
class ConceptOptions:
    """Settings of ``concept_attribution``; sections and equations are those of the paper.

    Attributes:
        alpha: text strength (III-A, B), 0..1: weight of the gradient against the attention. A tuple gives one per
            explained block, ascending: every block is then fused by itself and the maps are averaged.
        beta: text boosting factor (III-C), 0.001..1000; 1 changes nothing.
        boost: "gamma", G^(1/beta), or "clip", min(1, beta G). The paper prints no formula; "gamma" is the reading that
            fits what it says of beta.
        signed: take the gradient with its sign into the min-max, the literal form of III-A; without evidence a patch
            then stands above the most negative one. Off: negative evidence is none (ReLU).
        epsilon: of the min-max (III-A).
        strategy: "layers" (all heads of the last ``blocks`` blocks), "heads" (the best ``top`` of the last block),
            "both" (the best ``top`` of the last ``blocks`` blocks) (III-E).
        blocks: of "layers" and "both".
        top: heads that are chosen, of "heads" and "both"; all where there are fewer.
        head_alpha, head_beta: weights of relevance and penalty (eq. 1).
        penalty: cosine with the head chosen before ("previous", eq. 3) or the largest with any chosen ("max").
        background: a in tau = a max(H) (eq. 6 and 7), 0..1 without 1, or a name of ``BACKGROUNDS``; for pictures. Maps,
            and so metrics, are never suppressed.

    Raises:
        OptionError: a value outside what is allowed.
    """

    alpha: float | tuple[float, ...] = 0.8
    beta: float = 0.5
    boost: Boost = "gamma"
    signed: bool = False
    epsilon: float = 1e-8
    strategy: Strategy = "heads"
    blocks: int = 4
    top: int = 10
    head_alpha: float = 1.0
    head_beta: float = 0.5
    penalty: Penalty = "previous"
    background: float | str = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.signed, bool):
            raise OptionError("signed is not a truth value", got=repr(self.signed), allowed="True, False")
        if isinstance(self.background, str):
            if self.background not in BACKGROUNDS:
                raise OptionError("unknown background", got=repr(self.background), allowed=", ".join(BACKGROUNDS))
            object.__setattr__(self, "background", BACKGROUNDS[self.background])
        for name, value in (("background", self.background), *(("alpha", alpha) for alpha in self.alphas)):
            _check_number(name, value)
        if isinstance(self.alpha, tuple) and len(self.alpha) != self.explained_blocks:
            raise OptionError(
                "alpha needs one value per explained block", got=f"{len(self.alpha)} values",
                allowed=f"{self.explained_blocks} with strategy {self.strategy!r}, or a single one",
            )  # fmt: skip
        try:
            self.head_options(), *(self.normalize_options(alpha) for alpha in self.alphas)
            NormalizeOptions(background=float(self.background))
        except KernelError as error:
            raise OptionError("concept options", got=str(error)) from error

    @property
    def alphas(self) -> tuple[float, ...]:
        """Alpha as a tuple: one for all blocks, or one for each."""
        return tuple(self.alpha) if isinstance(self.alpha, tuple | list) else (self.alpha,)

    @property
    def explained_blocks(self) -> int:
        """How many of the last blocks are read."""
        return 1 if self.strategy == "heads" else self.blocks

    def head_options(self, heads: int | None = None) -> HeadScoreOptions:
        """For the kernel that scores and chooses heads, of ``heads`` in every block."""
        top = self.top if heads is None else min(self.top, heads * self.explained_blocks)
        return HeadScoreOptions(
            strategy=self.strategy, blocks=self.blocks, top=top,
            head_alpha=self.head_alpha, head_beta=self.head_beta, penalty=self.penalty,
        )  # fmt: skip

    def normalize_options(self, alpha: float) -> NormalizeOptions:
        """For the kernel that fuses attention and gradient."""
        return NormalizeOptions(
            alpha=alpha, beta=self.beta, boost=self.boost, epsilon=self.epsilon, relu=not self.signed
        )


def _check_number(name: str, value: Any) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= 1:
        raise OptionError(f"{name} outside its range", got=repr(value), allowed="0..1")
