"""Grad-ECLIP, "faithful" mode: true heads, the deployed model, last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine_kernels.relevance import relevance

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
    needs: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        weights = need(signals.spatial_weights, "spatial_weights") if self.spatial else None
        # Heads are summed, so that all channels may as well be those of one.
        evidence = relevance(
            need(signals.gradient, "gradient"),
            need(signals.values, "values"),
            heads=1,
            options="grad_eclip",
            patch_weights=weights,
            backend=signals.backend,
        )
        return evidence[:, :, 0]
