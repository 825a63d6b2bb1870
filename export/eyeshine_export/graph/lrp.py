"""Layer-wise relevance propagation as a modified gradient (Achtibat et al., AttnLRP, ICML 2024).

What is modified is the way back alone; times the input it is the relevance. Norms are linear maps with a frozen scale:
1/sigma of a LayerNorm, 1/|e| of the embedding. An activation is a gate, f(a)/a in place of f'(a). Of the products in
attention, AttnLRP gives either factor one half, and CP-LRP gives the values all: attention is a constant to it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import onnx_ir as ir

from eyeshine_export.graph.dense import DenseBlock, DenseVjp
from eyeshine_export.graph.forward import QUICK, TANH, Activated, Normed, OutputBlock, Tower
from eyeshine_export.graph.pixels import Rules
from eyeshine_export.graph.vjp import Head, RowVjp, Vjp
from eyeshine_export.graph.weights import BlockWeights

__all__ = ["ATTNLRP", "CPLRP"]

_HALF = 0.5


class _Gated(Tower):
    """Activations whose slope is f(a)/a: sigmoid(1.702 a) of QuickGELU, Phi(a) or its tanh form of GELU."""

    def activation_kept(self, a: ir.Value) -> Activated:
        g = self.g
        if self.config.activation == "quick_gelu":
            gate = g.op("Sigmoid", g.mul(a, g.constant(QUICK)))
            return Activated(g.mul(a, gate), gate)
        if self.config.activation == "gelu_tanh":
            root = (2 / math.pi) ** 0.5
            bent = g.add(g.mul(g.mul(a, a), g.constant(root * TANH)), g.constant(root))
            step = g.op("Tanh", g.mul(a, bent))
        else:
            step = g.op("Erf", g.mul(a, g.constant(_HALF**0.5)))
        gate = g.mul(g.add(step, g.constant(1.0)), g.constant(_HALF))
        return Activated(g.mul(a, gate), gate)


class _Frozen(Vjp):
    """Norms with a frozen scale; either factor of a product of queries and keys takes one half."""

    def norm(self, cotangent: ir.Value, normed: Normed) -> ir.Value:
        g = self.g
        scaled = g.mul(cotangent, normed.scale)
        return g.mul(g.sub(scaled, g.mean(scaled)), normed.inverse)

    def head(self, head: Head, text: ir.Value, similarity: ir.Value) -> ir.Value:
        """As of e -> <t, e>/|e| with |e| frozen: t/|e|, so that the relevance of e is the cosine, and not 0."""
        nothing_along_e = self.g.constant(np.zeros((1, 1)))
        return super().head(head, text, nothing_along_e)

    def row_scores(self, row: RowVjp, block: OutputBlock) -> ir.Value:
        return self.g.mul(super().row_scores(row, block), self.g.constant(_HALF))

    def qkv(self, block: BlockWeights, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        half = self.g.constant(_HALF)
        return super().qkv(block, self.g.mul(query, half), self.g.mul(key, half), value)


class _AttnLrp(DenseVjp):
    """Either factor of the product of attention and values takes one half."""

    def from_output_block(self, weights: BlockWeights, row: RowVjp, block: OutputBlock, norm1: Normed) -> ir.Value:
        half = RowVjp(self.g.mul(row.gradient, self.g.constant(_HALF)), row.middle)
        return super().from_output_block(weights, half, block, norm1)

    def input(self, weights: BlockWeights, middle: ir.Value, out: ir.Value, block: DenseBlock) -> ir.Value:
        return super().input(weights, middle, self.g.mul(out, self.g.constant(_HALF)), block)


class _CpLrp(DenseVjp):
    """Attention is a constant: nothing goes back through queries and keys."""

    def from_output_block(self, weights: BlockWeights, row: RowVjp, block: OutputBlock, norm1: Normed) -> ir.Value:
        g, vjp, width = self.g, self.vjp, self.vjp.width
        per_head = g.mul(g.unsqueeze(row.gradient, 2), g.constant(self.tower.head_mask.T))
        to_value = g.linear_vjp(vjp.flat(per_head, width), self.tower.matrix(weights, "value"))
        to_value = g.reshape(to_value, vjp.images, vjp.prompts, self.tower.config.heads, width)
        inner = g.matmul(g.transpose(g.unsqueeze(block.attention, 1), 0, 1, 3, 2), to_value)
        return g.add(self._at_class(row.middle), vjp.norm(inner, vjp.per_image(norm1)))

    def input(self, weights: BlockWeights, middle: ir.Value, out: ir.Value, block: DenseBlock) -> ir.Value:
        g, vjp = self.g, self.vjp
        attention = g.transpose(g.unsqueeze(block.attention, 1), 0, 1, 2, 4, 3)
        value = self._merge(g.matmul(attention, self._heads(out)))
        inner = self._tokens(g.linear_vjp(value, self.tower.matrix(weights, "value")))
        return g.add(middle, vjp.norm(inner, vjp.per_image(block.norm1)))


ATTNLRP: Final = Rules("attnlrp_gradient", _Gated, _Frozen, _AttnLrp)
CPLRP: Final = Rules("cplrp_gradient", _Gated, _Frozen, _CpLrp)
