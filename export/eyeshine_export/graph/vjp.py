"""The gradient of the cosine with respect to the class row of the attention output, as forward operations.

``c = <e/|e|, t/|t|>``. In the last block only the class row of ``dc/dO`` is non-zero, so its VJP is a one-token
computation and P prompts are the rows of one Gemm. A second explained block needs ``dc/dX`` of the class token only,
still one-token. From the third block on every token carries gradient (``dense.py``).

Cotangents are [B, P, ...]; what belongs to the image alone is [B, 1, ...]. Derivation and numerical checks:
docs/architecture.md; oracle in the tests: autograd in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from eyeshine_export.graph.forward import Activated, Normed, OutputBlock, Tower
from eyeshine_export.graph.weights import AttentionWeights, BlockWeights

__all__ = ["Head", "RowVjp", "Vjp"]


@dataclass(frozen=True)
class Head:
    """The tower's head for one row: LayerNorm and projection, None where it has none, and length."""

    norm: Normed | None
    projection: ir.Value | None
    unit: ir.Value
    inverse_length: ir.Value


@dataclass(frozen=True)
class RowVjp:
    """Cotangents at one row of a block: ``gradient`` = dc/dO and ``middle`` = dc/dY (after attention), [B, P, D]."""

    gradient: ir.Value
    middle: ir.Value


class Vjp:
    """Appends VJPs to a tower's graph.

    Args:
        tower: gives the graph, the sizes and the weights' values.
        images: one-element int64 value B.
        prompts: one-element int64 value P.
    """

    def __init__(self, tower: Tower, images: ir.Value, prompts: ir.Value) -> None:
        self.tower, self.g = tower, tower.g
        self.width = tower.config.width
        self.images, self.prompts = images, prompts

    # -- shapes ------------------------------------------------------------------------------------------------

    def rows(self, flat: ir.Value, channels: int) -> ir.Value:
        """[B*P, C] -> [B, P, C]."""
        return self.g.reshape(flat, self.images, self.prompts, channels)

    def flat(self, x: ir.Value, channels: int) -> ir.Value:
        return self.g.reshape(x, -1, channels)

    def per_image(self, normed: Normed) -> Normed:
        """Give statistics [B, ...] an axis for the prompts."""
        g = self.g
        return Normed(normed.value, g.unsqueeze(normed.xhat, 1), g.unsqueeze(normed.inverse, 1), normed.scale)

    # -- pieces ------------------------------------------------------------------------------------------------

    def norm(self, cotangent: ir.Value, normed: Normed) -> ir.Value:
        """(s g - mean(s g) - x-hat mean(s g x-hat)) / sigma; statistics broadcast against the cotangent."""
        g = self.g
        scaled = g.mul(cotangent, normed.scale)
        along = g.mul(normed.xhat, g.mean(g.mul(scaled, normed.xhat)))
        return g.mul(g.sub(g.sub(scaled, g.mean(scaled)), along), normed.inverse)

    def head(self, head: Head, text: ir.Value, similarity: ir.Value) -> ir.Value:
        """(t - <t, e>e)/|e| through projection and LayerNorm -> [B, P, D]; text [P, E] and head.unit [B, E] unit."""
        g = self.g
        along = g.mul(g.unsqueeze(similarity, 2), g.unsqueeze(head.unit, 1))
        tangent = g.mul(g.sub(g.unsqueeze(text, 0), along), g.unsqueeze(head.inverse_length, 1))
        if head.projection is not None:
            flat = g.op("Gemm", self.flat(tangent, _embed_dim(head.projection)), head.projection, transB=1)
            tangent = self.rows(flat, self.width)
        return tangent if head.norm is None else self.norm(tangent, self.per_image(head.norm))

    def mlp(self, block: BlockWeights, cotangent: ir.Value, slope: ir.Value) -> ir.Value:
        """W_expandᵀ(act'(a) * W_projectᵀ g); slope broadcasts against [B, P, ..., F]; result flat [.., D]."""
        g, tower = self.g, self.tower
        hidden_dim = block.expand[0].shape[0]
        hidden = g.linear_vjp(self.flat(cotangent, self.width), tower.matrix(block, "project"))
        hidden = g.mul(g.op("Reshape", hidden, self._like(cotangent, hidden_dim)), slope)
        return g.linear_vjp(self.flat(hidden, hidden_dim), tower.matrix(block, "expand"))

    def _like(self, x: ir.Value, channels: int) -> ir.Value:
        """The shape of x with another last dimension."""
        g = self.g
        return g.concat([g.op("Shape", x, start=0, end=-1), g.integers(channels)], 0)

    def through_mlp(self, block: BlockWeights, cotangent: ir.Value, norm2: Normed, act: Activated) -> ir.Value:
        """dc/dZ [B, P, ..., D] -> dc/dY of the same shape; norm2 and act carry an axis for the prompts."""
        g = self.g
        inner = g.op("Reshape", self.mlp(block, cotangent, act.slope), g.op("Shape", cotangent))
        return g.add(cotangent, self.norm(inner, norm2))

    def out(self, block: AttentionWeights, middle: ir.Value) -> ir.Value:
        """dc/dY -> dc/dO, same shape."""
        g = self.g
        weight = self.tower.matrix(block, "out")
        return g.op("Reshape", g.linear_vjp(self.flat(middle, self.width), weight), g.op("Shape", middle))

    # -- one row -----------------------------------------------------------------------------------------------

    def row(self, block: BlockWeights, cotangent: ir.Value, norm2: Normed, act: Activated) -> RowVjp:
        """dc/dZ[row] -> dc/dY[row] and dc/dO[row]; norm2 and act are of the row, [B, ...]."""
        slope = Activated(act.value, self.g.unsqueeze(act.slope, 1))
        middle = self.through_mlp(block, cotangent, self.per_image(norm2), slope)
        return RowVjp(self.out(block, middle), middle)

    def row_attention(self, row: RowVjp, block: OutputBlock) -> ir.Value:
        """dc/dA of the output row [B, P, T, H]: u = <g_h, V_h>."""
        g = self.g
        per_head = g.mul(g.unsqueeze(row.gradient, 3), g.constant(self.tower.head_mask))
        return g.matmul(g.unsqueeze(block.values, 1), per_head)

    def row_scores(self, row: RowVjp, block: OutputBlock) -> ir.Value:
        """dc/d(scores before softmax) of the output row [B, P, T, H]: A * (u - sum_T A u)."""
        g = self.g
        attention = g.transpose(g.unsqueeze(block.attention, 1), 0, 1, 3, 2)
        weighted = g.mul(attention, self.row_attention(row, block))
        return g.sub(weighted, g.mul(attention, g.sum(weighted, 2, keep=True)))

    def row_query(self, scores: ir.Value, keys: ir.Value) -> ir.Value:
        """dc/dq of the output row [B, P, D] from dc/dscores [B, P, T, H] and keys [B, T, D]."""
        g = self.g
        mixed = g.matmul(g.transpose(scores, 0, 1, 3, 2), g.unsqueeze(keys, 1))
        return g.sum(g.mul(mixed, g.constant(self.tower.head_mask.T * self.tower.scale)), 2)

    def class_row_input(
        self, weights: BlockWeights, row: RowVjp, block: OutputBlock, class_norm1: Normed
    ) -> ir.Value:  # fmt: skip
        """dc/dX[class token] of the block's input, [B, P, D]; one-token, for the second explained block.

        The class token enters through the residual, its query, its own key and its own value.
        """
        g = self.g
        scores = self.row_scores(row, block)
        to_channels = g.constant(self.tower.head_mask.T)
        class_scores = g.matmul(g.first(scores, 2), to_channels)
        key = g.mul(g.mul(class_scores, g.unsqueeze(block.query, 1)), g.constant(self.tower.scale))
        class_attention = g.matmul(g.first(block.attention, 2), to_channels)
        value = g.mul(row.gradient, g.unsqueeze(class_attention, 1))
        inner = self.qkv(weights, self.row_query(scores, block.keys), key, value)
        return g.add(row.middle, self.norm(self.rows(inner, self.width), self.per_image(class_norm1)))

    def qkv(self, block: BlockWeights, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        """dc/dU flat from dc/dQ, dc/dK, dc/dV of any leading shape."""
        total: ir.Value | None = None
        for part, cotangent in (("query", query), ("key", key), ("value", value)):
            total = self.g.linear_vjp(self.flat(cotangent, self.width), self.tower.matrix(block, part), total)
        assert total is not None
        return total


def _embed_dim(projection: ir.Value) -> int:
    """E of a projection [D, E]."""
    shape = projection.shape
    assert shape is not None
    return int(shape[1])  # type: ignore[arg-type]
