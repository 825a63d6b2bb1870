"""The forward pass of a pre-LN tower: fused trunk blocks and an output block that computes one row.

Tokens are a flat matrix [B*T, D] between blocks, so that every linear layer is one Gemm with its bias; only
attention sees [B, T, D].

In the output block nothing after attention needs the other tokens: query, attention row, output projection and MLP
are computed for the output row alone, keys and values for all. That is where the time for the gradient comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eyeshine_export.config import TowerConfig
from eyeshine_export.graph.ops import Array, Graph
from eyeshine_export.graph.trunk import Trunk, explained_trunk, matrix, whole_trunk
from eyeshine_export.graph.weights import AttentionWeights, BlockWeights

__all__ = ["Activated", "Normed", "OutputBlock", "Tokens", "Tower"]

QUICK = 1.702  # QuickGELU is x * sigmoid(1.702 x)
TANH = 0.044715  # the approximation's cubic term: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
FUSED_SINCE = 23  # operator set


@dataclass(frozen=True)
class Tokens:
    """Flat tokens [B*T, D] with the length of the token axis (dynamic in text towers)."""

    flat: ir.Value
    length: int | ir.Value


@dataclass(frozen=True)
class Normed:
    """A LayerNorm that keeps what its VJP needs: x-hat and 1/sigma."""

    value: ir.Value
    xhat: ir.Value
    inverse: ir.Value
    scale: ir.Value


@dataclass(frozen=True)
class Activated:
    """An MLP activation with the derivative act'(a) that the VJP needs."""

    value: ir.Value
    slope: ir.Value


@dataclass(frozen=True)
class OutputBlock:
    """What the output block yields; the row axis is gone.

    Attributes:
        query: [B, D].  keys, values: [B, T, D].  attention: [B, H, T].
        norm1: of the output row [B, D] (only where a deeper VJP asks).  norm2, norm3: of the row, before MLP and head.
        act: of the row [B, F].
        out: the row after the block [B, D].
    """

    query: ir.Value
    keys: ir.Value
    values: ir.Value
    attention: ir.Value
    norm2: Normed
    act: Activated
    out: ir.Value


class Tower:
    """Appends one tower's operators to a graph.

    Args:
        graph: the graph under construction.
        config: sizes, activation, eps.
        causal: whether a token attends to earlier tokens only.

    Attributes:
        mask: added to the scores of every block, [B, 1, T, T] with what ``causal`` hides, or None.
    """

    def __init__(self, graph: Graph, config: TowerConfig, *, causal: bool) -> None:
        self.g, self.config, self.causal = graph, config, causal
        self.mask: ir.Value | None = None
        self.single, self.trunk, self.explained = Trunk(graph), whole_trunk(graph), explained_trunk(graph)
        heads, width = config.heads, config.width
        self.scale = float((width // heads) ** -0.5)
        # Column h selects the channels of head h. Multiplying by it turns per-head products of one row into plain
        # matrix products over all channels, with no transposed copy of the keys or values.
        self.head_mask = np.repeat(np.eye(heads, dtype=graph.dtype), width // heads, axis=0)

    # -- pieces ------------------------------------------------------------------------------------------------

    def matrix(self, block: AttentionWeights, part: str) -> ir.Value:
        """A block's matrix [out, in], float32."""
        return matrix(self.g, block, part)

    def norm_weights(self, name: str, pair: tuple[Array, Array]) -> tuple[ir.Value, ir.Value]:
        return self.g.weight(f"{name}.weight", pair[0]), self.g.weight(f"{name}.bias", pair[1])

    def norm(self, x: ir.Value, name: str, pair: tuple[Array, Array]) -> ir.Value:
        return self.g.layer_norm(x, *self.norm_weights(name, pair), eps=self.config.eps)

    def norm_kept(self, x: ir.Value, name: str, pair: tuple[Array, Array]) -> Normed:
        """LayerNorm from plain operators; LayerNormalization's optional statistics do not run on every engine."""
        g = self.g
        scale, bias = self.norm_weights(name, pair)
        centred = g.sub(x, g.mean(x))
        variance = g.mean(g.mul(centred, centred))
        inverse = g.op("Reciprocal", g.op("Sqrt", g.add(variance, g.constant(self.config.eps))))
        xhat = g.mul(centred, inverse)
        return Normed(g.add(g.mul(xhat, scale), bias), xhat, inverse, scale)

    def linear(self, x: ir.Value, block: AttentionWeights, part: str) -> ir.Value:
        """One of a block's linear layers in float32."""
        return self.single.linears(x, block, part)[0]

    def activation(self, a: ir.Value, trunk: Trunk) -> ir.Value:
        """The MLP's activation, in the trunk's precision."""
        g = self.g
        if self.config.activation != "quick_gelu":
            return g.op("Gelu", a, **({"approximate": "tanh"} if self.config.activation == "gelu_tanh" else {}))
        return g.mul(a, g.op("Sigmoid", g.mul(a, trunk.constant(QUICK))))

    def activation_kept(self, a: ir.Value) -> Activated:
        """The activation with its derivative.

        QuickGELU' = s(1 + 1.702a(1-s)), erf-GELU' = Phi(a) + a phi(a), and with t the tanh of b(a):
        tanh-GELU' = (1 + t)/2 + a/2 (1 - t^2) b'(a).
        """
        g = self.g
        one = g.constant(1.0)
        if self.config.activation == "quick_gelu":
            scaled = g.mul(a, g.constant(QUICK))
            s = g.op("Sigmoid", scaled)
            value = g.mul(a, s)
            return Activated(value, g.mul(s, g.add(one, g.mul(scaled, g.sub(one, s)))))
        if self.config.activation == "gelu_tanh":
            half, root = g.constant(0.5), float(np.sqrt(2 / np.pi))
            square = g.mul(a, a)
            inner = g.mul(a, g.add(g.mul(square, g.constant(root * TANH)), g.constant(root)))
            t = g.op("Tanh", inner)
            inner_slope = g.add(g.mul(square, g.constant(3 * root * TANH)), g.constant(root))
            cumulative = g.mul(g.add(one, t), half)
            bend = g.mul(g.mul(g.mul(a, half), g.sub(one, g.mul(t, t))), inner_slope)
            return Activated(g.mul(a, cumulative), g.add(cumulative, bend))
        phi = g.op("Exp", g.mul(g.mul(a, a), g.constant(-0.5)))
        density = g.mul(phi, g.constant(float(1 / np.sqrt(2 * np.pi))))
        cumulative = g.mul(g.add(g.op("Erf", g.mul(a, g.constant(float(np.sqrt(0.5))))), one), g.constant(0.5))
        return Activated(g.mul(a, cumulative), g.add(cumulative, g.mul(a, density)))

    def tokens3d(self, flat: ir.Value, length: int | ir.Value) -> ir.Value:
        return self.g.reshape(flat, -1, length, self.config.width)

    # -- blocks ------------------------------------------------------------------------------------------------

    def project_qkv(self, tokens: Tokens, block: BlockWeights, trunk: Trunk) -> list[ir.Value]:
        """Query, key, value as flat matrices. Three Gemms: Attention takes them apart anyway, so no split copy."""
        normed = self.norm(tokens.flat, f"{block.name}.norm1", block.norm1)
        return trunk.linears(trunk.enter(normed), block, "query", "key", "value")

    def split_heads(self, flat: ir.Value, length: int | ir.Value, *perm: int) -> ir.Value:
        """[B*T, D] -> [B, T, H, d], axes in the order ``perm``."""
        heads, width = self.config.heads, self.config.width
        return self.g.transpose(self.g.reshape(flat, -1, length, heads, width // heads), *perm)

    def merge_heads(self, x: ir.Value) -> ir.Value:
        """[B, H, T, d] -> flat [B*T, D]."""
        return self.g.reshape(self.g.transpose(x, 0, 2, 1, 3), -1, self.config.width)

    def attention(self, qkv: Sequence[ir.Value], length: int | ir.Value, trunk: Trunk) -> ir.Value:
        """Attention of all tokens, flat in and out: one operator where the operator set has it.

        Written out, the scale goes to the query: TensorRT fuses softmax and both products only in that order.
        """
        g = self.g
        if g.form.opset >= FUSED_SINCE:  # four axes: TensorRT takes no other form of it
            split = [self.split_heads(x, length, 0, 2, 1, 3) for x in qkv]
            how = {"scale": self.scale, "is_causal": int(self.causal and self.mask is None), **trunk.attention}
            masked = [] if self.mask is None else [trunk.enter(self.mask)]
            return self.merge_heads(g.op("Attention", *split, *masked, **how))
        q, v = (self.split_heads(x, length, 0, 2, 1, 3) for x in (qkv[0], qkv[2]))
        scores = g.matmul(g.mul(q, trunk.constant(self.scale)), self.split_heads(qkv[1], length, 0, 2, 3, 1))
        scores = self.hide(trunk.leave(scores), length)
        return self.merge_heads(g.matmul(trunk.enter(g.softmax(scores)), v))

    def hide(self, scores: ir.Value, length: int | ir.Value) -> ir.Value:
        """Scores [B, H, T, T] with -inf where a token must not look."""
        if self.mask is None and not self.causal:
            return scores
        return self.g.add(scores, self.causal_mask(length) if self.mask is None else self.mask)

    def causal_mask(self, length: int | ir.Value) -> ir.Value:
        """[L, L] to add to scores: -inf where a key comes after its query."""
        g = self.g

        def mask() -> ir.Value:
            end = g.integers(length) if isinstance(length, int) else length
            order = g.op("Range", g.scalar(0), g.op("Squeeze", end), g.scalar(1))
            return g.masked(g.op("Greater", g.unsqueeze(order, 0), g.unsqueeze(order, 1)))

        return g.once("causal mask", mask)

    def trunk_block(self, tokens: Tokens, block: BlockWeights) -> Tokens:
        """A whole block for all tokens."""
        mixed = self.attention(self.project_qkv(tokens, block, self.trunk), tokens.length, self.trunk)
        y = self.out_residual(tokens.flat, mixed, block, self.trunk)
        return Tokens(self.mlp_residual(y, block, self.trunk), tokens.length)

    def out_residual(self, x: ir.Value, mixed: ir.Value, block: BlockWeights, trunk: Trunk) -> ir.Value:
        return self.g.add(x, trunk.leave(trunk.linears(mixed, block, "out")[0]))

    def mlp_residual(self, y: ir.Value, block: BlockWeights, trunk: Trunk) -> ir.Value:
        normed = self.norm(y, f"{block.name}.norm2", block.norm2)
        hidden = self.activation(trunk.linears(trunk.enter(normed), block, "expand")[0], trunk)
        return self.g.add(y, trunk.leave(trunk.linears(hidden, block, "project")[0]))

    def row_attention(self, query: ir.Value, keys: ir.Value, mask: ir.Value | None) -> ir.Value:
        """Attention of one query row [B, D] over keys [B, T, D] -> [B, H, T]; mask [B, 1, T] is added."""
        g = self.g
        selected = g.mul(g.unsqueeze(query, 2), g.constant(self.head_mask * self.scale))
        scores = g.transpose(g.matmul(keys, selected), 0, 2, 1)
        return g.softmax(scores if mask is None else g.add(scores, mask))

    def row_mix(self, attention: ir.Value, values: ir.Value) -> ir.Value:
        """Attention [B, H, T] times values [B, T, D], each head its own channels -> [B, D]."""
        g = self.g
        return g.sum(g.mul(g.matmul(attention, values), g.constant(self.head_mask.T)), 1)

    def output_block(
        self, tokens: Tokens, row: ir.Value, normed: ir.Value, normed_row: ir.Value, block: BlockWeights,
        mask: ir.Value | None,
    ) -> OutputBlock:  # fmt: skip
        """The block whose only needed output is one row.

        Args:
            tokens: all tokens before the block.
            row: the row before the block [B, D].
            normed: LN1 of all tokens, flat [B*T, D].
            normed_row: LN1 of the row [B, D].
            mask: added to the row's scores [B, 1, T], or None.
        """
        query = self.linear(normed_row, block, "query")
        both = self.explained.linears(self.explained.enter(normed), block, "key", "value")
        keys, values = (self.tokens3d(self.explained.leave(x), tokens.length) for x in both)
        attention = self.row_attention(query, keys, mask)
        y = self.out_residual(row, self.row_mix(attention, values), block, self.single)
        norm2 = self.norm_kept(y, f"{block.name}.norm2", block.norm2)
        act = self.activation_kept(self.linear(norm2.value, block, "expand"))
        out = self.g.add(y, self.linear(act.value, block, "project"))
        return OutputBlock(query, keys, values, attention, norm2, act, out)
