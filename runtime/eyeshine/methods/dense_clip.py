"""Cosines of text and patch features, where the last block is changed so that patches keep to their own places.

MaskCLIP, SCLIP, ClearCLIP and NACLIP: no gradient, one product. They say where the text is, and not why the image as a
whole is like it: the class token has no part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine_kernels.products import matmul

__all__ = ["ClearClip", "MaskClip", "NaClip", "Sclip"]


class _PatchCosines:
    """``cos(feature_i, text)``, -1..1, signed; a difference of texts (``against``) is the difference of the maps."""

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], signed."""
        return matmul(need(signals.features, "features"), need(signals.target, "target").swapaxes(-2, -1)).swapaxes(
            1, 2
        )


@dataclass(frozen=True)
class MaskClip(_PatchCosines):
    """Every patch attends to itself alone: its own value passes.

    Attributes:
        residual: keep residual and MLP of the block; without them the features are the projected values alone.
    """

    residual: bool = True

    name: ClassVar[str] = "maskclip"
    reference: ClassVar[str] = "Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022"

    @property
    def signals(self) -> frozenset[str]:
        """One of two features."""
        return frozenset({"maskclip_features" if self.residual else "maskclip_bare_features"})


@dataclass(frozen=True)
class Sclip(_PatchCosines):
    """Queries attend to queries and keys to keys, both added, with residual and MLP."""

    name: ClassVar[str] = "sclip"
    signals: ClassVar[frozenset[str]] = frozenset({"sclip_features"})
    reference: ClassVar[str] = "Wang et al., SCLIP, ECCV 2024"


@dataclass(frozen=True)
class ClearClip(_PatchCosines):
    """Queries attend to queries, without residual and MLP."""

    name: ClassVar[str] = "clearclip"
    signals: ClassVar[frozenset[str]] = frozenset({"clearclip_features"})
    reference: ClassVar[str] = "Lan et al., ClearCLIP, ECCV 2024"


@dataclass(frozen=True)
class NaClip(_PatchCosines):
    """Keys attend to keys, near ones more (a Gaussian of 5 patches is added), without residual and MLP."""

    name: ClassVar[str] = "naclip"
    signals: ClassVar[frozenset[str]] = frozenset({"naclip_features"})
    reference: ClassVar[str] = "Hajimiri et al., Pay Attention to Your Neighbours (NACLIP), WACV 2025"
