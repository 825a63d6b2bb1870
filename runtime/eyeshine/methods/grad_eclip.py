"""Grad-ECLIP: its gradient is that of the deployed model, or of the model that the released code makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from eyeshine.checks import check_choice, check_truth
from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, check_blocks, need
from eyeshine.methods.patch_similarity import combined_weights
from eyeshine_kernels.relevance import relevance

__all__ = ["GradEclip", "Mode", "Similarity"]

Mode = Literal["faithful", "paper-code", "notebook"]
Similarity = Literal["class", "combined"]

_LAMBDA: Final[dict[Mode, str]] = {
    "faithful": "spatial_weights",
    "paper-code": "single_head_spatial_weights_out",
    "notebook": "single_head_spatial_weights",
}


@dataclass(frozen=True)
class GradEclip:
    """``sum_l ReLU(lambda_i * <g, V_i>)`` over the last blocks l, g = dc/dO[class] over all heads' channels.

    lambda_i is the min-max of cos(q_class, k_i) over the patches; it does not depend on the text and comes out of the
    graph. The released code merges the heads of the explained blocks into one, scaled by ``D^-1/2``: its cosine, its
    gradient and its map are those of another model than the one that runs. Its modes need a bundle's group
    "single_head"; the similarities of a result are the deployed model's in every mode.

    Attributes:
        spatial: multiply by lambda; without it every patch weighs the same ("w/o lambda" in the paper).
        mode: "faithful" (the true heads), "paper-code" (one head, lambda of queries and keys after the output
            projection and its bias, as the released evaluation) or "notebook" (one head, lambda as here).
        layers: n, how many of the last blocks, 1..64; each has its own ReLU before the sum, as in the image notebook.
        similarity: "class" (lambda), or "combined": the mean of lambda and of the likeness to patches of a high lambda
            (``combined_weights``), our reading of MMEL, section 3.5, which prints no formula; mode "faithful" alone.

    Raises:
        OptionError: a value outside what is allowed.
    """

    spatial: bool = True
    mode: Mode = "faithful"
    layers: int = 1
    similarity: Similarity = "class"

    name: ClassVar[str] = "grad_eclip"
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024"

    def __post_init__(self) -> None:
        check_truth("spatial", self.spatial)
        check_choice("mode of Grad-ECLIP", self.mode, get_args(Mode))
        check_choice("similarity of Grad-ECLIP", self.similarity, get_args(Similarity))
        if self.similarity == "combined" and (self.mode != "faithful" or not self.spatial):
            raise OptionError(
                "similarity 'combined' changes lambda of the deployed model",
                got=f"mode={self.mode!r}, spatial={self.spatial}", allowed="mode='faithful', spatial=True",
            )  # fmt: skip
        check_blocks("layers", self.layers)

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads."""
        return self.layers

    @property
    def signals(self) -> frozenset[str]:
        """What it reads: of the deployed model, or of the one with a single head."""
        prefix = "" if self.mode == "faithful" else "single_head_"
        read = {f"{prefix}values", f"{prefix}gradient"}
        if self.spatial:
            read.add(_LAMBDA[self.mode])
        return frozenset(read | {"keys"} if self.similarity == "combined" else read)

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        # Heads are summed, so that all channels may as well be those of one.
        evidence = relevance(
            need(signals.gradient, "gradient"),
            need(signals.values, "values"),
            heads=1,
            options="grad_eclip",
            patch_weights=self._weights(signals) if self.spatial else None,
            backend=signals.backend,
        )
        return evidence.sum(2)

    def _weights(self, signals: BlockSignals) -> Array:
        """Lambda [B, K, N]."""
        if self.mode == "paper-code":
            return need(signals.spatial_weights_out, "spatial_weights_out")
        weights = need(signals.spatial_weights, "spatial_weights")
        return combined_weights(weights, need(signals.keys, "keys")) if self.similarity == "combined" else weights
