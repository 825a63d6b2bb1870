"""Chefer et al. over all layers: attention times its gradient, block after block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.checks import check_truth, check_whole
from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine.methods.rollout import from_block

__all__ = ["CheferLayers"]


@dataclass(frozen=True)
class CheferLayers:
    """The class row of R after ``R <- R + mean_h ReLU(dy/dA_h * A_h) R`` over the blocks from ``start_layer`` up.

    Unlike in ``chefer``, the scale of y matters: products of n blocks grow with its n-th power. Of a cosine little is
    left but the sum over blocks of what the class token reads; a logit adds what came by way of other tokens (5 % of
    the map on drawn scenes, where it is 22 times the cosine; CLIP's is 100 times). ReLU makes the map non-linear in the
    target: a contrast is a target of its own, not a difference of maps.

    Attributes:
        start_layer: the lowest block; 0 is the first, -1 the last (the default of the authors' CLIP notebook, and then
            ``chefer`` times the logit scale).
        logits: y is the logit, logit_scale times the cosine, as in the authors' notebook; else the cosine.

    Raises:
        OptionError: a value outside what is allowed; by ``maps``, a block that the tower does not have.
    """

    start_layer: int = 0
    logits: bool = True

    name: ClassVar[str] = "chefer_layers"
    signals: ClassVar[frozenset[str]] = frozenset({"chefer_relevance"})
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "Chefer et al., Generic Attention-model Explainability, ICCV 2021, eq. 5 and 6"

    def __post_init__(self) -> None:
        check_whole("start_layer", self.start_layer, -64, 63)
        check_truth("logits", self.logits)

    @property
    def needs(self) -> frozenset[str]:
        """The logit scale, where y is the logit."""
        return frozenset({"logits"} if self.logits else ())

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        return from_block(need(signals.chefer_relevance, "chefer_relevance"), self.start_layer)
