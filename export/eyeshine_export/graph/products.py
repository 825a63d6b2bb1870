"""Graphs that reduce products over the attention matrices of all blocks to the class token's row.

Only that row of a product is asked for, so it is made from the top block down, a row times a matrix at every block: T
times less than the product of the matrices, and the row that a product from any block up would have is met on the way.
The class token's own entry is left out: it is 1 and more in Chefer et al.'s relevance, a hundred times what patches
have, so that an error in these would not show beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.dense import DenseBlock, DenseVjp, dense_forward
from eyeshine_export.graph.ends import finish, head_of, vision_tower
from eyeshine_export.graph.explained import class_output_block
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form, Graph
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import BlockWeights, VisionWeights

__all__ = ["chefer_graph", "rollout_graph"]


def rollout_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels -> embedding, every block's mean attention, and the class row of attention rollout from every block up.

    Abnar and Zuidema, section 3: the product of (mean_h A_h + I), rows brought to a sum of 1. Rows of a mean of
    attentions sum to 1, so that is (mean_h A_h + I) / 2.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, (*below, last) = tower.g, as_stored(weights.blocks, form)
    means: list[ir.Value] = []
    for block in below:
        attention, tokens = _written_block(tower, tokens, block)
        means.append(_mean_of_heads(g, attention))
    output = class_output_block(tower, tokens, last)
    query, key, _ = tower.project_qkv(tokens, last, tower.explained)
    means.append(_mean_of_heads(g, _attention(tower, query, key, tokens.length)))

    length, half = _length(tokens), g.constant(0.5)
    row = g.mul(g.add(g.slice(means[-1], 1, 0, 1), _class_token(g, length)), half)
    rows = [row]
    for mean in reversed(means[:-1]):
        row = g.mul(g.add(row, g.matmul(row, mean)), half)
        rows.append(row)
    depth = len(means)
    g.output("embedding", head_of(tower, "visual", output.out, weights).unit, ["B", config.embed_dim])
    g.output("rollout", g.slice(g.concat(rows[::-1], 1), 2, 1, length), ["B", depth, length - 1])
    g.output("attention_mean", _stack(g, means, 1), ["B", depth, length, length])
    return finish(g, "rollout", "pixels to the attention of all blocks, multiplied up to the class token")


def chefer_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels and target -> embedding, and the class row of Chefer et al.'s relevance from every block up.

    R <- R + R_A R with R_A = mean_h ReLU(dy/dA_h * A_h) (eq. 5 and 6 of the paper), y the dot product of target and
    unit embedding: a longer target weighs terms of higher order in R_A more. The class row of (I + R_A,L) ...
    (I + R_A,l) is made from the left.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, (*below, last) = tower.g, as_stored(weights.blocks, form)
    target = g.input("target", ["P", config.embed_dim])
    dense: list[DenseBlock] = []
    for block in below:
        dense.append(dense_forward(tower, tokens, block))
        tokens = dense[-1].out
    output = class_output_block(tower, tokens, last)
    head = head_of(tower, "visual", output.out, weights)

    vjp, length = Vjp(tower, g.shape(head.unit, 0), g.shape(target, 0)), _length(tokens)
    top = vjp.head(head, target, g.op("Gemm", head.unit, target, transB=1))
    row = vjp.row(last, top, output.norm2, output.act)
    weighed = g.mul(g.transpose(g.unsqueeze(output.attention, 1), 0, 1, 3, 2), vjp.row_attention(row, output))
    positive = g.op("ReduceMean", g.op("Relu", weighed), g.integers(3), keepdims=0)
    rows = [g.add(g.unsqueeze(positive, 2), _class_token(g, length))]
    if dense:
        norm1 = tower.norm_kept(tower.tokens3d(tokens.flat, length), f"{last.name}.norm1", last.norm1)
        down = DenseVjp(vjp, length)
        rows += _down(down, below, dense, down.from_output_block(last, row, output, norm1), rows[0])
    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("chefer_relevance", g.slice(g.concat(rows[::-1], 2), 3, 1, length), ["B", "P", len(rows), length - 1])
    return finish(g, "chefer", "pixels and targets to relevance over the attention of all blocks")


def _down(
    down: DenseVjp, weights: Sequence[BlockWeights], blocks: Sequence[DenseBlock], cotangent: ir.Value, row: ir.Value
) -> list[ir.Value]:
    """The class row [B, P, 1, T] after every dense block, from the top down; cotangent: dy/dX above the highest."""
    g, rows = down.g, []
    for index in range(len(blocks) - 1, -1, -1):
        block = blocks[index]
        middle, out = down.middle(weights[index], cotangent, block)
        weighed = g.mul(g.unsqueeze(block.attention, 1), down.attention(out, block.values))
        positive = g.op("ReduceMean", g.op("Relu", weighed), g.integers(2), keepdims=0)
        row = g.add(row, g.matmul(row, positive))
        rows.append(row)
        if index:
            cotangent = down.input(weights[index], middle, out, block)
    return rows


# -- parts -----------------------------------------------------------------------------------------------------


def _written_block(tower: Tower, tokens: Tokens, block: BlockWeights) -> tuple[ir.Value, Tokens]:
    """A whole block for all tokens with its attention [B, H, T, T] written out."""
    trunk, length = tower.explained, tokens.length
    query, key, value = tower.project_qkv(tokens, block, trunk)
    attention = _attention(tower, query, key, length)
    mixed = tower.g.matmul(trunk.enter(attention), tower.split_heads(value, length, 0, 2, 1, 3))
    y = tower.out_residual(tokens.flat, tower.merge_heads(mixed), block, trunk)
    return attention, Tokens(tower.mlp_residual(y, block, trunk), length)


def _attention(tower: Tower, query: ir.Value, key: ir.Value, length: int | ir.Value) -> ir.Value:
    """Attention of all tokens [B, H, T, T], float32, from flat queries and keys."""
    g, trunk = tower.g, tower.explained
    scaled = g.mul(tower.split_heads(query, length, 0, 2, 1, 3), trunk.constant(tower.scale))
    return g.softmax(trunk.leave(g.matmul(scaled, tower.split_heads(key, length, 0, 2, 3, 1))))


def _mean_of_heads(g: Graph, attention: ir.Value) -> ir.Value:
    """[B, H, T, T] -> [B, T, T]."""
    return g.op("ReduceMean", attention, g.integers(1), keepdims=0)


def _class_token(g: Graph, length: int) -> ir.Value:
    """[1, T]: 1 at the class token."""
    return g.constant(np.eye(1, length))


def _length(tokens: Tokens) -> int:
    assert isinstance(tokens.length, int)  # of image towers
    return tokens.length


def _stack(g: Graph, values: Sequence[ir.Value], axis: int) -> ir.Value:
    return g.concat([g.unsqueeze(value, axis) for value in values], axis)
