"""Attention Grad-CAM: the last block's attention as feature maps, one for each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine_kernels.products import matmul

__all__ = ["AttentionGradCam"]


@dataclass(frozen=True)
class AttentionGradCam:
    """``ReLU(mean_h A_h[class, i] * mean_j u_{h,j})`` with ``u_{h,j} = <g_h, V_{h,j}> = dc/dA_h[class, j]``, j patches.

    Grad-CAM with heads for channels, the baseline of Chefer et al.: their mean gradient is ``<g_h, mean_j V_{h,j}>``.
    """

    name: ClassVar[str] = "attention_grad_cam"
    signals: ClassVar[frozenset[str]] = frozenset({"values", "class_attention", "gradient"})
    needs: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        attention = need(signals.class_attention, "class_attention")[:, 0, :, 1:]
        gradient, values = need(signals.gradient, "gradient")[:, :, 0], need(signals.values, "values")[:, 0, 1:]
        images, heads, _ = attention.shape
        along = gradient * values.mean(1)[:, None]
        weights = along.reshape(images, prompts, heads, -1).sum(-1)
        return (matmul(weights, attention) / heads).clip(0)
