"""Which member of the relevance family is meant: p, phi, phi_out and how heads are merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from eyeshine_kernels.backend import KernelError

__all__ = ["PRESETS", "RelevanceOptions"]


@dataclass(frozen=True)
class RelevanceOptions:
    """One setting of ``out_i = phi_out(scale * sum_h w_h * phi(A_h[i]^p * u[h, i])) * lambda_i``.

    Attributes:
        attention_power: p, 0 or 1: whether a head's evidence is multiplied by its attention.
        head_relu: phi is ReLU instead of the identity: negative evidence of a head is dropped before heads are merged.
        mean_heads: scale is 1/H instead of 1.
        signed: phi_out is the identity instead of ReLU: the map keeps negative evidence.
        class_token: token 0 of values and attention is the class token and has no place in the map.

    Raises:
        KernelError: a field of another type or value.
    """

    attention_power: Literal[0, 1] = 0
    head_relu: bool = False
    mean_heads: bool = False
    signed: bool = False
    class_token: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.attention_power, bool) or self.attention_power not in (0, 1):
            raise KernelError(f"attention_power: got {self.attention_power!r}, allowed 0 or 1")
        for name in ("head_relu", "mean_heads", "signed", "class_token"):
            if not isinstance(getattr(self, name), bool):
                raise KernelError(f"{name}: got {getattr(self, name)!r}, allowed True or False")

    @property
    def first_patch(self) -> int:
        """Index of the first patch among the tokens."""
        return 1 if self.class_token else 0

    def scale(self, heads: int) -> float:
        """What the sum over ``heads`` heads is multiplied by."""
        return 1 / heads if self.mean_heads else 1.0

    @classmethod
    def preset(cls, name: str) -> RelevanceOptions:
        """Return the setting of a published method; ``PRESETS`` lists them.

        Raises:
            KernelError: no preset of that name.
        """
        if name not in PRESETS:
            raise KernelError(f"unknown relevance preset: got {name!r}, allowed {', '.join(PRESETS)}")
        return PRESETS[name]


PRESETS: Final[dict[str, RelevanceOptions]] = {
    # Zhao et al., ICML 2024: ReLU(sum_h u) * lambda, lambda handed over as patch_weights (without: "w/o lambda").
    "grad_eclip": RelevanceOptions(),
    # Chefer et al., ICCV 2021, last block: mean_h ReLU(A * u).
    "chefer": RelevanceOptions(attention_power=1, head_relu=True, mean_heads=True, signed=True),
    # Gandelsman et al., ICLR 2024, direct path: sum_h A * u, signed, with the gradient replaced by the text's direction
    # r_h = W_o,h^T(gamma * (P t)) / (sigma |e|); the constants of the mean and the biases are the caller's.
    "head_decomposition": RelevanceOptions(attention_power=1, signed=True),
}
