"""LeGrad: the positive gradient of attention, each block asked for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, check_blocks, need

__all__ = ["LeGrad"]


@dataclass(frozen=True)
class LeGrad:
    """``sum_l mean_q mean_h ReLU(d s_l / d A_l,h[q, i])``, s_l the score of the mean token after block l.

    q runs over all tokens. The released code pools all tokens, the class token with them, whatever the model's head
    takes; the graph yields that form. It sums blocks after up-sampling, which is linear, so they are summed before.

    Attributes:
        layers: how many of the last blocks, 1..64. 2 is what the released code does; the paper aggregates all.

    Raises:
        OptionError: a number outside its range.
    """

    layers: int = 2

    name: ClassVar[str] = "legrad"
    signals: ClassVar[frozenset[str]] = frozenset({"legrad"})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "Bousselham et al., LeGrad, ICCV 2025, and its released code"

    def __post_init__(self) -> None:
        check_blocks("layers", self.layers)

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads."""
        return self.layers

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        return need(signals.legrad, "legrad").sum(2)
