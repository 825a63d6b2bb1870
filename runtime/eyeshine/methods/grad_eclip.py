"""Grad-ECLIP, "faithful" mode: true heads, the deployed model, last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eyeshine.methods.base import Array, BlockSignals, need

__all__ = ["GradEclip"]


@dataclass(frozen=True)
class GradEclip:
    """``ReLU(lambda_i * <g, V_i>)``, g = dc/dO[class], summed over all heads' channels.

    The released code merges the heads into one and so explains another model; this reads the signals of the model
    that runs. lambda_i is the min-max of cos(q_class, k_i) over the patches; it does not depend on the text and comes
    out of the graph.

    Attributes:
        spatial: multiply by lambda; without it every patch weighs the same ("w/o lambda" in the paper).
    """

    spatial: bool = True

    name: ClassVar[str] = "grad_eclip"
    signals: ClassVar[frozenset[str]] = frozenset({"spatial_weights", "values", "gradient"})
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        values = need(signals.values, "values")[:, 1:]
        gradient = need(signals.gradient, "gradient")
        evidence: Array = np.maximum(gradient @ values.transpose(0, 2, 1), 0)
        if self.spatial:
            evidence *= need(signals.spatial_weights, "spatial_weights")[:, None]
        return evidence
