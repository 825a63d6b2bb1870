"""Layer-wise relevance propagation: what each patch adds to the cosine, by rules for norms, activations, attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine.methods.saliency import patch_sums

__all__ = ["AttnLrp", "CpLrp"]


class _Relevance:
    """Relevance of a patch: modified gradient times normalised image, summed over RGB and the patch's pixels; signed.

    The whole map adds up to the cosine less what biases, positions and the class embedding take (CP-LRP); AttnLRP's
    softmax rule does not conserve.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"centred_pixels"})
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], signed, in units of the cosine."""
        gradient = need(signals.pixel_gradient, "pixel_gradient")
        return patch_sums((gradient * need(signals.centred_pixels, "centred_pixels")[:, None]).sum(2), signals)


@dataclass(frozen=True)
class AttnLrp(_Relevance):
    """Attention takes part: either factor of its products gets one half. Epsilon 0; the gamma rule is not offered."""

    name: ClassVar[str] = "attnlrp"
    signals: ClassVar[frozenset[str]] = frozenset({"attnlrp_gradient"})
    reference: ClassVar[str] = "Achtibat et al., AttnLRP, ICML 2024"


@dataclass(frozen=True)
class CpLrp(_Relevance):
    """Attention is a constant: the values get all. Epsilon 0; the gamma rule is not offered."""

    name: ClassVar[str] = "cplrp"
    signals: ClassVar[frozenset[str]] = frozenset({"cplrp_gradient"})
    reference: ClassVar[str] = "Ali et al., XAI for Transformers: Conservative Propagation, ICML 2022"
