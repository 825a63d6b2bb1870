"""How a tower's tokens become one row, and which attention explains it.

Three kinds. The class token: its row of the last block, whose other rows need not be computed. A mean over the patches:
all rows of the last block carry gradient, and the row that explains is their mean. A pooler: a learned query attends to
all tokens, and its attention is the one that is explained; a block of the trunk has no such row.

All yield the same signals. In a tower without a class token a row of zeros, to which nothing attends, stands in its
place, so that whoever reads signals finds the patches behind one token and sums over tokens stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from eyeshine.errors import UnsupportedError
from eyeshine_export.config import VisionConfig
from eyeshine_export.graph.dense import DenseVjp, dense_forward
from eyeshine_export.graph.explained import (
    TO_THE_END,
    Explained,
    block_signals,
    explained_stack,
    gradients_of,
    stacked,
)
from eyeshine_export.graph.forward import Activated, Normed, Tokens, Tower
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import BlockWeights, VisionWeights

__all__ = ["ClassReadout", "Readout", "read_out"]


class Readout(Protocol):
    """A tower's tokens, read.

    Attributes:
        tower: of the row's width.
        row: [B, D], before the head.
        normed: whether the last LayerNorm is behind the row already.
    """

    tower: Tower
    row: ir.Value
    normed: bool

    def signals(self, vjp: Vjp, cotangent: ir.Value) -> dict[str, ir.Value]:
        """The signals of every explained attention by name, stacked along K, from dc/drow [B, P, D]."""
        ...


def read_out(
    tower: Tower, tokens: Tokens, weights: VisionWeights, blocks: Sequence[BlockWeights], layers: int
) -> Readout:  # fmt: skip
    """Append all blocks and what reads them; ``layers`` of the last are explained, 0 of them for the row alone.

    Args:
        tower: of the image.
        tokens: before the first block.
        weights: of the image tower.
        blocks: its blocks as the graph stores them.
        layers: K.

    Raises:
        UnsupportedError: more than the pooler is to be explained.
    """
    config = tower.config
    assert isinstance(config, VisionConfig)
    if config.pool == "class":
        return ClassReadout(tower, tokens, blocks, max(layers, 1))
    if config.pool == "average":
        return _MeanReadout(tower, tokens, weights, blocks, layers)
    if layers > 1:
        raise UnsupportedError(
            "only the pooler of such a tower is explained: in a block of its trunk no row stands for the image",
            got=f"{layers} layers", allowed="1", cure="export it without --layers",
        )  # fmt: skip
    return _PoolerReadout(tower, tokens, weights, blocks)


class ClassReadout:
    """The class token's row of the last block."""

    normed = False

    def __init__(self, tower: Tower, tokens: Tokens, blocks: Sequence[BlockWeights], layers: int) -> None:
        self.tower, kept = tower, len(blocks) - layers
        for block in blocks[:kept]:
            tokens = tower.trunk_block(tokens, block)
        self.stack = explained_stack(tower, tokens, tuple(blocks[kept:]))
        self.row = self.stack.output.out

    def signals(self, vjp: Vjp, cotangent: ir.Value) -> dict[str, ir.Value]:
        return block_signals(self.tower, self.stack, gradients_of(vjp, cotangent, self.stack))


class _MeanReadout:
    """The mean over the patches.

    Its explaining row is the mean row: the mean query (whose scores are the mean of the patches' scores), the mean of
    the attention rows, and the gradient with respect to what is added to every patch's row of O, that is their sum.
    """

    def __init__(
        self, tower: Tower, tokens: Tokens, weights: VisionWeights, blocks: Sequence[BlockWeights], layers: int
    ) -> None:  # fmt: skip
        g, config, first = tower.g, tower.config, len(blocks) - layers
        assert isinstance(config, VisionConfig)
        self.tower, self.prefix, self.normed = tower, int(config.class_token), not config.norm_after_pool
        for block in blocks[:first]:
            tokens = tower.trunk_block(tokens, block)
        self._weights, self._dense, self._length = blocks[first:], [], tokens.length
        for block in self._weights:
            self._dense.append(dense_forward(tower, tokens, block))
            tokens = self._dense[-1].out
        out = tower.tokens3d(tokens.flat, tokens.length)
        self._norm = tower.norm_kept(out, "visual.final_norm", weights.final_norm) if self.normed else None
        self.row = self._over_patches(out if self._norm is None else self._norm.value, 1)
        self.g = g

    def _over_patches(self, x: ir.Value, axis: int, kind: str = "ReduceMean") -> ir.Value:
        g = self.tower.g
        return g.op(kind, g.slice(x, axis, self.prefix, TO_THE_END), g.integers(axis), keepdims=0)

    def signals(self, vjp: Vjp, cotangent: ir.Value) -> dict[str, ir.Value]:
        explained = [
            Explained(self._over_patches(x.query, 1), x.keys, x.values, self._over_patches(x.attention, 2))
            for x in self._dense
        ]
        return stacked(self.g, explained, self._gradients(vjp, cotangent))

    def _gradients(self, vjp: Vjp, cotangent: ir.Value) -> list[ir.Value]:
        g, down = self.g, DenseVjp(vjp, self._length)
        patches = down.column(0.0, 1.0) if self.prefix else down.column(1.0, 1.0)
        share = g.div(patches, g.sum(patches, 0, keep=True))
        cotangent = g.matmul(share, g.unsqueeze(cotangent, 2))
        if self._norm is not None:
            cotangent = vjp.norm(cotangent, vjp.per_image(self._norm))
        gradients: list[ir.Value] = []
        for index in range(len(self._dense) - 1, -1, -1):
            block, weights = self._dense[index], self._weights[index]
            middle, out = down.middle(weights, cotangent, block)
            gradients.insert(0, self._over_patches(out, 2, "ReduceSum"))
            if index:
                cotangent = down.input(weights, middle, out, block)
        return gradients


class _PoolerReadout:
    """A learned query's attention over all tokens, and the MLP behind it where there is one."""

    def __init__(
        self, tower: Tower, tokens: Tokens, weights: VisionWeights, blocks: Sequence[BlockWeights]
    ) -> None:  # fmt: skip
        g, config, pooler = tower.g, tower.config, weights.pooler
        assert isinstance(config, VisionConfig)
        assert config.pooler is not None
        assert pooler is not None
        for block in blocks:
            tokens = tower.trunk_block(tokens, block)
        self.tower = Tower(g, config.pooler, causal=False)
        self._weights, self.normed = pooler.block, config.pooler.mlp
        normed = tower.norm(tokens.flat, f"{pooler.block.name}.norm1", pooler.block.norm1)
        both = self.tower.explained.linears(self.tower.explained.enter(normed), pooler.block, "key", "value")
        keys, values = (self.tower.tokens3d(self.tower.explained.leave(x), tokens.length) for x in both)
        query = g.weight(f"{pooler.block.name}.latent_query", pooler.query.reshape(1, -1))
        attention = self.tower.row_attention(query, keys, None)
        query = g.op("Expand", query, g.concat([g.shape(keys, 0), g.integers(1)], 0))
        self._explained = self._behind_class(Explained(query, keys, values, attention), config.class_token)
        self.row = self.tower.linear(self.tower.row_mix(attention, values), pooler.block, "out")
        self._mlp: tuple[BlockWeights, Normed, Activated] | None = None
        if isinstance(pooler.block, BlockWeights):
            norm2 = self.tower.norm_kept(self.row, f"{pooler.block.name}.norm2", pooler.block.norm2)
            act = self.tower.activation_kept(self.tower.linear(norm2.value, pooler.block, "expand"))
            self.row = g.add(self.row, self.tower.linear(act.value, pooler.block, "project"))
            self._mlp = pooler.block, norm2, act

    def _behind_class(self, x: Explained, there: bool) -> Explained:
        """A row of zeros, with no attention, before the patches of a tower without a class token."""
        if there:
            return x
        g = self.tower.g
        before_tokens, before_row = g.integers(0, 1, 0, 0, 0, 0), g.integers(0, 0, 1, 0, 0, 0)
        keys, values = (g.op("Pad", y, before_tokens) for y in (x.keys, x.values))
        return Explained(x.query, keys, values, g.op("Pad", x.attention, before_row))

    def signals(self, vjp: Vjp, cotangent: ir.Value) -> dict[str, ir.Value]:
        if self._mlp is None:
            gradient = vjp.out(self._weights, cotangent)
        else:
            weights, norm2, act = self._mlp
            gradient = vjp.row(weights, cotangent, norm2, act).gradient
        return stacked(self.tower.g, [self._explained], [gradient])
