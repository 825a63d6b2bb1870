"""Blocks in which every token carries gradient: the third explained block from the top and deeper.

Their attention is written out (the VJP needs the matrix), and they keep what the VJP reads. The gradient that the
last block sends into its LayerNorm (dc/dU) has rank 2H per prompt beyond the class row, so it is made as a product of
thin matrices; the lowest dense block sends only the class row down, because the block under it is explained by a
one-token VJP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eyeshine_export.graph.forward import Activated, Normed, OutputBlock, Tokens, Tower
from eyeshine_export.graph.vjp import RowVjp, Vjp
from eyeshine_export.graph.weights import BlockWeights

__all__ = ["DenseBlock", "DenseVjp", "dense_forward", "per_token"]


@dataclass(frozen=True)
class DenseBlock:
    """A forward block with everything its VJP reads.

    Attributes:
        query, keys, values, mixed: [B, T, D].  attention: [B, H, T, T].
        norm1, norm2, act: of all tokens, [B, T, ...].
        out: tokens after the block.
    """

    query: ir.Value
    keys: ir.Value
    values: ir.Value
    mixed: ir.Value
    attention: ir.Value
    norm1: Normed
    norm2: Normed
    act: Activated
    out: Tokens


def per_token(tower: Tower, normed: Normed, length: int | ir.Value) -> Normed:
    """Statistics of flat tokens [B*T, ...] -> [B, T, ...]."""
    g = tower.g
    width = tower.config.width
    return Normed(
        normed.value, g.reshape(normed.xhat, -1, length, width), g.reshape(normed.inverse, -1, length, 1), normed.scale
    )


def dense_forward(tower: Tower, tokens: Tokens, block: BlockWeights) -> DenseBlock:
    """A whole block with its attention written out."""
    g, length, name = tower.g, tokens.length, block.name
    norm1 = tower.norm_kept(tokens.flat, f"{name}.norm1", block.norm1)
    query, keys, values = (
        tower.tokens3d(tower.linear(norm1.value, block, part), length) for part in ("query", "key", "value")
    )
    q, v = (tower.split_heads(x, length, 0, 2, 1, 3) for x in (query, values))
    scores = g.matmul(g.mul(q, g.constant(tower.scale)), tower.split_heads(keys, length, 0, 2, 3, 1))
    attention = g.softmax(tower.hide(scores, length))
    flat = tower.merge_heads(g.matmul(attention, v))
    mixed = tower.tokens3d(flat, length)
    y = tower.out_residual(tokens.flat, flat, block, tower.single)
    norm2 = tower.norm_kept(y, f"{name}.norm2", block.norm2)
    act = tower.activation_kept(tower.linear(norm2.value, block, "expand"))
    out = g.add(y, tower.linear(act.value, block, "project"))
    slope = g.reshape(act.slope, -1, length, block.expand[0].shape[0])
    return DenseBlock(
        query, keys, values, mixed, attention,
        per_token(tower, norm1, length), per_token(tower, norm2, length),
        Activated(act.value, slope), Tokens(out, length),
    )  # fmt: skip


class DenseVjp:
    """VJPs of whole blocks; cotangents are [B, P, T, D]."""

    def __init__(self, vjp: Vjp, length: int | ir.Value) -> None:
        self.vjp, self.g, self.tower, self.length = vjp, vjp.g, vjp.tower, length

    def _tokens(self, flat: ir.Value) -> ir.Value:
        """[B*P*T, D] -> [B, P, T, D]."""
        return self.g.reshape(flat, self.vjp.images, self.vjp.prompts, self.length, self.vjp.width)

    def _at_class(self, rows: ir.Value) -> ir.Value:
        """[B, P, D] -> [B, P, T, D], zero but for the class token."""
        return self.g.matmul(self.column(1.0, 0.0), self.g.unsqueeze(rows, 2))

    def column(self, first: float, rest: float) -> ir.Value:
        """[T, 1] with one value at the first token and another at all others."""
        g = self.g
        if isinstance(self.length, int):
            return g.constant(np.array([[first]] + [[rest]] * (self.length - 1), g.dtype).reshape(-1, 1))
        others = g.concat([g.sub(self.length, g.integers(1)), g.integers(1)], 0)
        return g.concat([g.constant([[first]]), g.op("Expand", g.constant([[rest]]), others)], 0)  # type: ignore[list-item]

    def from_output_block(self, weights: BlockWeights, row: RowVjp, block: OutputBlock, norm1: Normed) -> ir.Value:
        """dc/dX of the last block's input, all tokens.

        dc/dV[j] = A[j] g and dc/dK[j] = dS[j] q per head, so dc/dU = [A, dS] (T x 2H) times (2H x D), plus the class
        row's query term. norm1: of all tokens [B, T, ...].
        """
        g, tower, width = self.g, self.tower, self.vjp.width
        mask_rows = g.constant(tower.head_mask.T)
        scores = self.vjp.row_scores(row, block)
        query_weight, key_weight, value_weight = (tower.matrix(weights, part) for part in ("query", "key", "value"))
        heads = tower.config.heads

        per_head = g.mul(g.unsqueeze(row.gradient, 2), mask_rows)
        to_value = g.linear_vjp(self.vjp.flat(per_head, width), value_weight)
        to_value = g.reshape(to_value, self.vjp.images, self.vjp.prompts, heads, width)
        attention = g.transpose(g.unsqueeze(block.attention, 1), 0, 1, 3, 2)

        scaled_query = g.mul(g.unsqueeze(block.query, 1), g.constant(tower.head_mask.T * tower.scale))
        to_key = g.linear_vjp(self.vjp.flat(scaled_query, width), key_weight)
        to_key = g.reshape(to_key, -1, 1, heads, width)

        query = self.vjp.row_query(scores, block.keys)
        at_query = self.vjp.rows(g.linear_vjp(self.vjp.flat(query, width), query_weight), width)
        inner = g.add(g.add(g.matmul(attention, to_value), g.matmul(scores, to_key)), self._at_class(at_query))
        return g.add(self._at_class(row.middle), self.vjp.norm(inner, self.vjp.per_image(norm1)))

    def middle(self, weights: BlockWeights, cotangent: ir.Value, block: DenseBlock) -> tuple[ir.Value, ir.Value]:
        """dc/dZ -> (dc/dY, dc/dO), all tokens."""
        slope = Activated(block.act.value, self.g.unsqueeze(block.act.slope, 1))
        middle = self.vjp.through_mlp(weights, cotangent, self.vjp.per_image(block.norm2), slope)
        return middle, self.vjp.out(weights, middle)

    def attention(self, out: ir.Value, values: ir.Value) -> ir.Value:
        """dc/dA [B, P, H, T, T] from dc/dO [B, P, T, D] and values [B, T, D]: <dO_h[q], V_h[i]>."""
        columns = self.g.unsqueeze(self.tower.split_heads(values, self.length, 0, 2, 3, 1), 1)
        return self.g.matmul(self._heads(out), columns)

    def input(self, weights: BlockWeights, middle: ir.Value, out: ir.Value, block: DenseBlock) -> ir.Value:
        """dc/dX of a dense block's input, all tokens."""
        g, tower = self.g, self.tower
        grad = self._heads(out)
        attention = g.unsqueeze(block.attention, 1)
        query, keys = (g.unsqueeze(tower.split_heads(x, self.length, 0, 2, 1, 3), 1) for x in (block.query, block.keys))
        towards = self.attention(out, block.values)
        # sum_j dA A = <g, O> per head and query row: no second pass over the T x T matrix.
        base = g.sum(g.mul(grad, g.unsqueeze(tower.split_heads(block.mixed, self.length, 0, 2, 1, 3), 1)), 4, keep=True)
        scores = g.mul(g.mul(attention, g.sub(towards, base)), g.constant(tower.scale))
        query_g = self._merge(g.matmul(scores, keys))
        key_g = self._merge(g.matmul(g.transpose(scores, 0, 1, 2, 4, 3), query))
        value_g = self._merge(g.matmul(g.transpose(attention, 0, 1, 2, 4, 3), grad))
        inner = self._tokens(self.vjp.qkv(weights, query_g, key_g, value_g))
        return g.add(middle, self.vjp.norm(inner, self.vjp.per_image(block.norm1)))

    def class_input(self, weights: BlockWeights, middle: ir.Value, out: ir.Value, block: DenseBlock) -> ir.Value:
        """dc/dX[class token] of a dense block's input, [B, P, D]: one row and one column of the attention's VJP."""
        g, tower = self.g, self.tower
        mask, mask_rows = g.constant(tower.head_mask), g.constant(tower.head_mask.T)
        scale = g.constant(tower.scale)
        base = g.matmul(g.mul(out, g.unsqueeze(block.mixed, 1)), mask)
        out_class = g.first(out, 2)

        u = g.matmul(g.unsqueeze(block.values, 1), g.mul(g.unsqueeze(out_class, 3), mask))
        row = g.unsqueeze(g.transpose(g.first(block.attention, 2), 0, 2, 1), 1)
        row_scores = g.mul(row, g.sub(u, g.slice(base, 2, 0, 1)))
        query = self.vjp.row_query(row_scores, block.keys)

        column = g.unsqueeze(g.transpose(g.first(block.attention, 3), 0, 2, 1), 1)
        class_value = g.unsqueeze(g.slice(block.values, 1, 0, 1), 1)
        column_scores = g.mul(column, g.sub(g.matmul(g.mul(out, class_value), mask), base))
        key = self._per_head(g.matmul(g.transpose(column_scores, 0, 1, 3, 2), g.unsqueeze(block.query, 1)), mask_rows)
        value = self._per_head(g.matmul(g.transpose(column, 0, 1, 3, 2), out), mask_rows)

        inner = self.vjp.rows(self.vjp.qkv(weights, query, g.mul(key, scale), value), self.vjp.width)
        norm1 = block.norm1
        class_norm = Normed(norm1.value, g.first(norm1.xhat, 1), g.first(norm1.inverse, 1), norm1.scale)
        return g.add(g.first(middle, 2), self.vjp.norm(inner, self.vjp.per_image(class_norm)))

    # -- shapes ------------------------------------------------------------------------------------------------

    def _per_head(self, x: ir.Value, mask_rows: ir.Value) -> ir.Value:
        """[B, P, H, D] -> [B, P, D], each head its own channels."""
        return self.g.sum(self.g.mul(x, mask_rows), 2)

    def _heads(self, x: ir.Value) -> ir.Value:
        """[B, P, T, D] -> [B, P, H, T, d]."""
        heads = self.tower.config.heads
        split = self.g.reshape(x, self.vjp.images, self.vjp.prompts, self.length, heads, self.vjp.width // heads)
        return self.g.transpose(split, 0, 1, 3, 2, 4)

    def _merge(self, x: ir.Value) -> ir.Value:
        """[B, P, H, T, d] -> flat [B*P*T, D]."""
        return self.g.reshape(self.g.transpose(x, 0, 1, 3, 2, 4), -1, self.vjp.width)
