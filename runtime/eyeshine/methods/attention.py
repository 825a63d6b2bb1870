"""Raw attention of the class token in the last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, for_all_prompts, need

__all__ = ["Attention"]


@dataclass(frozen=True)
class Attention:
    """``mean_h A_h[class, i]``: where the model looks, whatever the text; the same map for every prompt."""

    name: ClassVar[str] = "attention"
    signals: ClassVar[frozenset[str]] = frozenset({"class_attention"})
    needs: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = False
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "the attention row of the class token; a baseline, not an explanation of a text"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative, summing to at most 1."""
        return for_all_prompts(need(signals.class_attention, "class_attention")[:, 0, :, 1:].mean(1), prompts)
