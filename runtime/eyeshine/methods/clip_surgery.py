"""CLIP Surgery: cosines of patch features and texts, without what all texts have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine_kernels.products import matmul

__all__ = ["ClipSurgery"]

Common = Literal["auto", "texts", "empty", "keep"]


@dataclass(frozen=True)
class ClipSurgery:
    """``S_j = w_j <F_i, T_j> - mean_k w_k <F_i, T_k>``, F the features of the surgery, T the texts of the call.

    ``w_j = p_j / mean(p)`` with ``p = softmax(temperature <F_class, T>)`` over the texts. A single text has no others:
    ``S = <F_i, T - T_empty>``. The released code's first versions normalised F along the tokens; F is of unit length
    here, token by token. Signed; a difference of texts (``against``) is the difference of their maps.

    Attributes:
        common: what is taken away: the mean over the "texts" of the call (all prompts of the target; two or more), the
            cosine with the "empty" text, or nothing ("keep": the architecture's surgery alone). "auto" takes the texts
            where there are two or more, else the empty text.
        temperature: of the softmax, positive; 2 in the released code, not the model's logit scale.
    """

    common: Common = "auto"
    temperature: float = 2.0

    name: ClassVar[str] = "clip_surgery"
    signals: ClassVar[frozenset[str]] = frozenset({"surgery_features"})
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "Li et al., A Closer Look at the Explainability of CLIP, Pattern Recognition 2025"

    def __post_init__(self) -> None:
        if self.common not in get_args(Common):
            raise OptionError("common of CLIP Surgery", got=repr(self.common), allowed=", ".join(get_args(Common)))
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not 0 < self.temperature <= 100:
            raise OptionError("temperature of CLIP Surgery", got=repr(self.temperature), allowed="above 0, up to 100")

    @property
    def needs(self) -> frozenset[str]:
        """The texts, and the empty one where a single text may be explained."""
        return frozenset({"prompts"} | ({"empty_text"} if self.common in ("auto", "empty") else set()))

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], signed.

        Raises:
            OptionError: ``common="texts"`` and a single text.
        """
        features, texts = need(signals.features, "features"), need(signals.prompts, "prompts")
        common = self.common
        if common == "auto":
            common = "texts" if len(texts) > 1 else "empty"
        cosines = matmul(features, texts.T)
        patches = cosines[:, 1:]
        if common == "empty":
            patches = patches - matmul(features[:, 1:], need(signals.empty_text, "empty_text"))[..., None]
        elif common == "texts":
            patches = self._without_mean(cosines[:, :1], patches)
        return need(signals.combine, "combine")(patches.swapaxes(1, 2))

    def _without_mean(self, whole: Any, patches: Any) -> Any:
        """Cosines of the class token [B, 1, J] and of patches [B, N, J] -> patches, weighed, less their mean over J."""
        if patches.shape[-1] < 2:
            raise OptionError(
                "CLIP Surgery takes away what several texts have in common", got="one text",
                allowed="two texts or more", cure='common="empty", or pass other texts of the scene',
            )  # fmt: skip
        most = whole.max(-1, keepdims=True) if isinstance(whole, np.ndarray) else whole.amax(-1, keepdims=True)
        exponential = math.e ** (self.temperature * (whole - most))  # e^88 is the end of float32
        weighed = patches * (exponential / exponential.mean(-1, keepdims=True))  # the softmax's sum cancels
        return weighed - weighed.mean(-1, keepdims=True)
