"""The explained blocks of a tower and the gradient of each: last block, lowest block, and what lies between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from eyeshine.signals import CONSTANT_COSINES
from eyeshine_export.graph.dense import DenseBlock, DenseVjp, dense_forward
from eyeshine_export.graph.forward import OutputBlock, Tokens, Tower
from eyeshine_export.graph.ops import Graph
from eyeshine_export.graph.vjp import RowVjp, Vjp
from eyeshine_export.graph.weights import BlockWeights

__all__ = [
    "TO_THE_END", "Explained", "LowestBlock", "Stack", "block_signals", "class_output_block", "class_row",
    "explained_stack", "gradients_of", "spatial_weights", "stacked",
]  # fmt: skip

TO_THE_END: Final = 2**31 - 1


def class_row(tower: Tower, flat: ir.Value, length: int | ir.Value) -> ir.Value:
    return tower.g.first(tower.tokens3d(flat, length), 1)


class LowestBlock:
    """The lowest of several explained blocks: a trunk block whose class row is looked at as well.

    Everything after its attention is token-wise, so its gradient is again a one-token VJP.
    """

    def __init__(self, tower: Tower, tokens: Tokens, block: BlockWeights) -> None:
        trunk = tower.explained
        qkv = tower.project_qkv(tokens, block, trunk)
        y = tower.out_residual(tokens.flat, tower.attention(qkv, tokens.length, trunk), block, trunk)
        self.out = Tokens(tower.mlp_residual(y, block, trunk), tokens.length)
        self.query, self.keys, self.values = (tower.tokens3d(trunk.leave(x), tokens.length) for x in qkv)
        self.class_attention = tower.row_attention(tower.g.first(self.query, 1), self.keys, None)
        self.norm2 = tower.norm_kept(class_row(tower, y, tokens.length), f"{block.name}.norm2", block.norm2)
        self.act = tower.activation_kept(tower.linear(self.norm2.value, block, "expand"))


@dataclass(frozen=True)
class Stack:
    """The explained blocks: weights ascending, what their forward kept, and the tokens before the last one."""

    weights: tuple[BlockWeights, ...]
    lowest: LowestBlock | None
    dense: list[DenseBlock]
    output: OutputBlock
    before_output: Tokens

    @property
    def whole(self) -> list[LowestBlock | DenseBlock]:
        """The blocks that are computed for all tokens, all but the last."""
        return [*([] if self.lowest is None else [self.lowest]), *self.dense]


def class_output_block(tower: Tower, tokens: Tokens, block: BlockWeights) -> OutputBlock:
    """The last block, cut to the class token's row."""
    normed = tower.norm(tokens.flat, f"{block.name}.norm1", block.norm1)
    row = class_row(tower, tokens.flat, tokens.length)
    normed_row = class_row(tower, normed, tokens.length)
    return tower.output_block(tokens, row, normed, normed_row, block, None)


def explained_stack(tower: Tower, tokens: Tokens, blocks: tuple[BlockWeights, ...]) -> Stack:
    """Tokens through the explained blocks, which keep what the gradient needs; of the last, the class row alone."""
    lowest = LowestBlock(tower, tokens, blocks[0]) if len(blocks) > 1 else None
    if lowest is not None:
        tokens = lowest.out
    dense: list[DenseBlock] = []
    for block in blocks[1:-1]:
        dense.append(dense_forward(tower, tokens, block))
        tokens = dense[-1].out
    return Stack(blocks, lowest, dense, class_output_block(tower, tokens, blocks[-1]), tokens)


@dataclass(frozen=True)
class Explained:
    """What one explained attention yields.

    Attributes:
        query: of the row that explains [B, D].  keys, values: [B, T, D].  attention: of that row [B, H, T].
    """

    query: ir.Value
    keys: ir.Value
    values: ir.Value
    attention: ir.Value


def block_signals(tower: Tower, stack: Stack, gradients: list[ir.Value]) -> dict[str, ir.Value]:
    """The signals of the class token's rows by name, stacked along K in ascending order of blocks."""
    g, output = tower.g, stack.output
    explained = [Explained(g.first(x.query, 1), x.keys, x.values, _attention_row(g, x)) for x in stack.whole]
    return stacked(g, [*explained, Explained(output.query, output.keys, output.values, output.attention)], gradients)


def stacked(g: Graph, explained: list[Explained], gradients: list[ir.Value]) -> dict[str, ir.Value]:
    """The signals of explained attentions by name; gradients [B, P, D] each."""
    query, keys = g.stack([x.query for x in explained], 1), g.stack([x.keys for x in explained], 1)
    return {
        "class_query": query,
        "keys": keys,
        "spatial_weights": spatial_weights(g, query, keys),
        "values": g.stack([x.values for x in explained], 1),
        "class_attention": g.stack([x.attention for x in explained], 1),
        "gradient": g.stack(gradients, 2),
    }


def _attention_row(g: Graph, block: LowestBlock | DenseBlock) -> ir.Value:
    """The class token's row of a block's attention [B, H, T]."""
    return g.first(block.attention, 2) if isinstance(block, DenseBlock) else block.class_attention


def spatial_weights(g: Graph, query: ir.Value, keys: ir.Value) -> ir.Value:
    """Grad-ECLIP's lambda [B, K, N]: cos(q_class, k_i), min-max over the patches; query [B, K, D], keys [B, K, T, D].

    Zero where the cosines differ by no more than ``CONSTANT_COSINES``. That is what is asked, and not whether they
    differ by more, so that a NaN stays one.
    """
    dots = g.op("Squeeze", g.matmul(keys, g.unsqueeze(query, 3)), g.integers(3))
    along_keys = g.op("ReduceL2", keys, g.integers(3), keepdims=0)
    lengths = g.mul(along_keys, g.op("ReduceL2", query, g.integers(2), keepdims=1))
    cosine = g.div(dots, g.op("Max", lengths, g.constant(1e-12)))
    cosine = g.slice(cosine, 2, 1, TO_THE_END)
    low, high = (g.op(kind, cosine, g.integers(2), keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
    spread, least = g.sub(high, low), g.constant(CONSTANT_COSINES)
    weights = g.div(g.sub(cosine, low), g.op("Max", spread, least))
    return g.op("Where", g.op("LessOrEqual", spread, least), g.constant(0.0), weights)


def gradients_of(vjp: Vjp, cotangent: ir.Value, stack: Stack) -> list[ir.Value]:
    """dc/dO[class] of every explained block, ascending, each [B, P, D], from dc/dZ[class] of the last."""
    row = vjp.row(stack.weights[-1], cotangent, stack.output.norm2, stack.output.act)
    if stack.lowest is None:
        return [row.gradient]
    if stack.dense:
        above, class_cotangent = _through_dense(vjp, row, stack)
    else:
        tokens, last = stack.before_output, stack.weights[-1]
        class_tokens = class_row(vjp.tower, tokens.flat, tokens.length)
        norm1 = vjp.tower.norm_kept(class_tokens, f"{last.name}.norm1", last.norm1)
        above, class_cotangent = [], vjp.class_row_input(last, row, stack.output, norm1)
    lowest = vjp.row(stack.weights[0], class_cotangent, stack.lowest.norm2, stack.lowest.act)
    return [lowest.gradient, *above, row.gradient]


def _through_dense(vjp: Vjp, row: RowVjp, stack: Stack) -> tuple[list[ir.Value], ir.Value]:
    """From the last block's row down through the dense blocks: their gradients, and dc/dX[class] below them."""
    tower, tokens, last = vjp.tower, stack.before_output, stack.weights[-1]
    down = DenseVjp(vjp, tokens.length)
    norm1 = tower.norm_kept(tower.tokens3d(tokens.flat, tokens.length), f"{last.name}.norm1", last.norm1)
    cotangent = down.from_output_block(last, row, stack.output, norm1)
    gradients: list[ir.Value] = []
    for index in range(len(stack.dense) - 1, -1, -1):
        weights, block = stack.weights[1 + index], stack.dense[index]
        middle, out = down.middle(weights, cotangent, block)
        gradients.insert(0, vjp.g.first(out, 2))
        send = down.input if index else down.class_input
        cotangent = send(weights, middle, out, block)
    return gradients, cotangent
