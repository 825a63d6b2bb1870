"""Grad-ECLIP on the text side, "faithful": the true heads of the deployed text tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from eyeshine.checks import check_truth
from eyeshine.methods.base import Array, BlockSignals, check_blocks, need
from eyeshine_kernels.relevance import RelevanceOptions, relevance

__all__ = ["TextGradEclip"]

_SIGNED: Final = RelevanceOptions(signed=True)


@dataclass(frozen=True)
class TextGradEclip:
    """``ReLU(sum_l lambda_i * <g, V_i>)`` over the last blocks l, g = dc/dO[end token].

    The ReLU comes after the sum over blocks, other than on the image side. lambda_i is cos(query of the end token,
    k_i), min-max from the start token to the end token. The released code merges the heads of the explained blocks
    and so explains another model; this is the one that runs.

    Attributes:
        layers: n, how many of the last blocks, 1..64; None for all that the bundle explains, which is the authors' 8
            unless the export was told otherwise or the tower has fewer.
        spatial: multiply by lambda; without it every token weighs the same.
        signed: without the ReLU: tokens that speak against the image are negative.
        released: lambda's minimum and maximum over the whole context, padding included, as the authors' code takes
            them. The padding is behind the end token and has no part in the embedding, yet it can set both.

    Raises:
        OptionError: a value outside what is allowed.
    """

    layers: int | None = None
    spatial: bool = True
    signed: bool = False
    released: bool = False

    name: ClassVar[str] = "grad_eclip"
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024"

    def __post_init__(self) -> None:
        if self.layers is not None:
            check_blocks("layers", self.layers)
        for what in ("spatial", "signed", "released"):
            check_truth(what, getattr(self, what))

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads, 0 for all there are."""
        return self.layers or 0

    @property
    def signals(self) -> frozenset[str]:
        """What it reads."""
        return frozenset({"values", "gradient"} | ({"spatial_weights"} if self.spatial else set()))

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Relevance [P, B, N] of N tokens of P texts for B images, non-negative unless signed."""
        evidence = relevance(
            need(signals.gradient, "gradient"),
            need(signals.values, "values"),
            heads=1,
            options=_SIGNED,
            patch_weights=need(signals.spatial_weights, "spatial_weights") if self.spatial else None,
        ).sum(2)
        return evidence if self.signed else np.maximum(evidence, 0)
