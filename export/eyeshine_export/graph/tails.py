"""Graphs that run a part of the image tower: ``hidden`` yields what its last blocks are given, a tail goes on from it.

A tail's gradient is that of every token, dc/dX of the tokens it is given: what the last block sends down, then one
dense VJP for every further block (``dense.py``).
"""

from __future__ import annotations

import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.dense import DenseBlock, DenseVjp, dense_forward
from eyeshine_export.graph.ends import finish, head_of, normalise, vision_tower
from eyeshine_export.graph.explained import class_output_block
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form, Graph
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Head, Vjp
from eyeshine_export.graph.weights import VisionWeights

__all__ = ["hidden_graph", "tail_graph"]


def hidden_graph(config: ClipConfig, weights: VisionWeights, count: int, form: Form = PLAIN) -> ir.Model:
    """pixels and text -> embedding, similarity and the tokens before each of the last ``count`` blocks."""
    tower, tokens = vision_tower(config, weights, form)
    g, blocks = tower.g, as_stored(weights.blocks, form)
    before = [tokens]
    for block in blocks[:-1]:
        before.append(tower.trunk_block(before[-1], block))
    head = head_of(tower, "visual", class_output_block(tower, before[-1], blocks[-1]).out, weights)
    _cosines(g, config, head)
    kept = [g.unsqueeze(tower.tokens3d(tokens.flat, tokens.length), 1) for tokens in before[-count:]]
    g.output("hidden", g.concat(kept, 1), ["B", count, _length(config), config.vision.width])
    return finish(g, "hidden", f"pixels to the tokens before each of the last {count} block(s)")


def tail_graph(config: ClipConfig, weights: VisionWeights, count: int, form: Form = PLAIN) -> ir.Model:
    """The last ``count`` blocks: tokens before them and text -> embedding, similarity, dc/d(tokens)."""
    g, length, width = Graph(form), _length(config), config.vision.width
    tower = Tower(g, config.vision, causal=False)
    state = g.input("state", ["B", length, width])
    tokens = Tokens(g.reshape(state, -1, width), length)
    *below, last = as_stored(weights.blocks, form)[-count:]
    dense: list[DenseBlock] = []
    for block in below:
        dense.append(dense_forward(tower, tokens, block))
        tokens = dense[-1].out
    output = class_output_block(tower, tokens, last)
    head = head_of(tower, "visual", output.out, weights)
    unit_text, similarity = _cosines(g, config, head)

    vjp = Vjp(tower, g.shape(head.unit, 0), g.shape(unit_text, 0))
    row = vjp.row(last, vjp.head(head, unit_text, similarity), output.norm2, output.act)
    down = DenseVjp(vjp, length)
    norm1 = tower.norm_kept(tower.tokens3d(tokens.flat, length), f"{last.name}.norm1", last.norm1)
    cotangent = down.from_output_block(last, row, output, norm1)
    for block, kept in zip(reversed(below), reversed(dense), strict=True):
        cotangent = down.input(block, *down.middle(block, cotangent, kept), kept)
    g.output("state_gradient", cotangent, ["B", "P", length, width])
    return finish(g, f"tail_{count}", f"tokens and text vectors through the last {count} block(s), and back")


def _cosines(g: Graph, config: ClipConfig, head: Head) -> tuple[ir.Value, ir.Value]:
    """The input ``text`` in unit length and its cosines; the outputs ``embedding`` and ``similarity``."""
    unit_text = normalise(g, g.input("text", ["P", config.embed_dim]))[0]
    similarity = g.op("Gemm", head.unit, unit_text, transB=1)
    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("similarity", similarity, ["B", "P"])
    return unit_text, similarity


def _length(config: ClipConfig) -> int:
    """Tokens of an image, the class token with them."""
    rows, columns = config.vision.grid
    return 1 + rows * columns
