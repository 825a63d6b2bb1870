"""The image tower with a gate on every head, on attention and MLP of every block, and on every patch.

What a gate of 0 takes away is gone exactly: a head adds nothing (or a value that is handed in), a block's attention or
MLP passes its input on, and no token attends to a patch. Attention is written out in float32 in every precision.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.ends import finish, head_of, vision_tower
from eyeshine_export.graph.explained import class_row
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.weights import BlockWeights, VisionWeights

__all__ = ["gates_graph"]


def gates_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels and gates -> embedding, every head's mean output, and the tokens that the last block's heads are given."""
    tower, tokens = vision_tower(config, weights, form)
    g, vision = tower.g, config.vision
    depth, width, length = vision.layers, vision.width, 1 + vision.grid[0] * vision.grid[1]
    head_gates = g.input("head_gates", ["B", depth, vision.heads])
    head_values = g.input("head_values", [depth, width])
    block_gates = g.input("block_gates", ["B", depth, 2])
    shown = _attended(tower, g.input("token_gates", ["B", length - 1]))
    # A head's gate is that of all its channels.
    channels = g.matmul(head_gates, g.constant(tower.head_mask.T))

    means, normed = [], tokens.flat
    for index, block in enumerate(as_stored(weights.blocks, form)):
        here, value = (g.slice(x, axis, index, index + 1) for x, axis in ((channels, 1), (head_values, 0)))
        both = g.slice(block_gates, 1, index, index + 1)
        normed = tower.norm(tokens.flat, f"{block.name}.norm1", block.norm1)
        mixed = _mixed(tower, normed, block, length, shown)
        means.append(g.op("ReduceMean", mixed, g.integers(1), keepdims=1))
        kept = g.add(value, g.mul(here, g.sub(mixed, value)))
        y = _gated(tower, tokens.flat, kept, block, g.slice(both, 2, 0, 1), length)
        tokens = Tokens(_gated_mlp(tower, y, block, g.slice(both, 2, 1, 2), length), length)

    head = head_of(tower, "visual", class_row(tower, tokens.flat, length), weights)
    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("head_means", g.concat(means, 1), ["B", depth, width])
    g.output("features", tower.tokens3d(normed, length), ["B", length, width])
    return finish(g, "gates", "pixels and gates of heads, blocks and patches to image embedding")


def _attended(tower: Tower, token_gates: ir.Value) -> ir.Value:
    """[B, N] -> what is added to scores, [B, 1, 1, T]: the log of a gate multiplies the weights of its patch."""
    g = tower.g
    bias = g.op("Pad", g.op("Log", token_gates), g.integers(0, 1, 0, 0), g.constant(np.zeros(())))
    return g.unsqueeze(bias, 1, 2)


def _mixed(tower: Tower, normed: ir.Value, block: BlockWeights, length: int, shown: ir.Value) -> ir.Value:
    """What the heads mix, [B, T, D], before the output projection."""
    g, trunk = tower.g, tower.trunk
    qkv = [trunk.leave(x) for x in trunk.linears(trunk.enter(normed), block, "query", "key", "value")]
    query, value = (tower.split_heads(x, length, 0, 2, 1, 3) for x in (qkv[0], qkv[2]))
    scores = g.matmul(g.mul(query, g.constant(tower.scale)), tower.split_heads(qkv[1], length, 0, 2, 3, 1))
    return tower.tokens3d(tower.merge_heads(g.matmul(g.softmax(g.add(scores, shown)), value)), length)


def _gated(tower: Tower, x: ir.Value, mixed: ir.Value, block: BlockWeights, gate: ir.Value, length: int) -> ir.Value:
    """x plus the gated output projection of what the heads mix; flat."""
    trunk, flat = tower.trunk, tower.g.reshape(mixed, -1, tower.config.width)
    return _add(tower, x, trunk.leave(trunk.linears(trunk.enter(flat), block, "out")[0]), gate, length)


def _gated_mlp(tower: Tower, y: ir.Value, block: BlockWeights, gate: ir.Value, length: int) -> ir.Value:
    trunk = tower.trunk
    normed = tower.norm(y, f"{block.name}.norm2", block.norm2)
    hidden = tower.activation(trunk.linears(trunk.enter(normed), block, "expand")[0], trunk)
    return _add(tower, y, trunk.leave(trunk.linears(hidden, block, "project")[0]), gate, length)


def _add(tower: Tower, x: ir.Value, plus: ir.Value, gate: ir.Value, length: int) -> ir.Value:
    """x + gate [B, 1, 1] times ``plus``; flat."""
    g = tower.g
    return g.add(x, g.reshape(g.mul(tower.tokens3d(plus, length), gate), -1, tower.config.width))
