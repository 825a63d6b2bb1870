"""Chefer et al., last layer: attention times its gradient, per head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine_kernels.relevance import relevance

__all__ = ["Chefer"]


@dataclass(frozen=True)
class Chefer:
    """``mean_h ReLU(A_h[class, i] * u_{h,i})`` with ``u_{h,i} = <g_h, V_{h,i}> = dc/dA_h[class, i]``.

    The default of the authors' CLIP notebook (start_layer = last block), without its min-max.
    """

    name: ClassVar[str] = "chefer"
    signals: ClassVar[frozenset[str]] = frozenset({"values", "class_attention", "gradient"})
    needs: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Chefer et al., Generic Attention-model Explainability, ICCV 2021"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        attention = need(signals.class_attention, "class_attention")
        evidence = relevance(
            need(signals.gradient, "gradient"),
            need(signals.values, "values"),
            heads=attention.shape[2],
            options="chefer",
            attention=attention,
            backend=signals.backend,
        )
        return evidence[:, :, 0]
