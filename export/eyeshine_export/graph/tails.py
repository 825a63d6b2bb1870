"""Graphs that run a part of a tower: ``hidden`` yields what its last blocks are given, a tail goes on from it.

A tail's gradient is that of every token, dc/dX of the tokens it is given: what the last block sends down, then one
dense VJP for every further block (``dense.py``). Texts come to their tail without padding: the last token is the output
row, and all blocks are dense.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.dense import DenseBlock, DenseVjp, dense_forward
from eyeshine_export.graph.ends import finish, head_of, normalise, text_tower, vision_tower
from eyeshine_export.graph.explained import class_output_block
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form, Graph
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Head, Vjp
from eyeshine_export.graph.weights import BlockWeights, TextWeights, VisionWeights

__all__ = ["hidden_graph", "tail_graph", "text_hidden_graph", "text_tail_graph"]


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


def text_hidden_graph(config: ClipConfig, weights: TextWeights, count: int, form: Form = PLAIN) -> ir.Model:
    """tokens -> what they are before each of the last ``count`` blocks of the text tower."""
    tower, tokens, _ = text_tower(config, weights, form)
    g, before = tower.g, [tokens]
    for block in weights.blocks[:-1]:
        before.append(tower.trunk_block(before[-1], block))
    kept = [g.unsqueeze(tower.tokens3d(tokens.flat, tokens.length), 1) for tokens in before[-count:]]
    g.output("text_hidden", g.concat(kept, 1), ["P", count, "L", config.text.width])
    return finish(g, "text_hidden", f"token ids to the tokens before each of the last {count} block(s)")


def text_tail_graph(config: ClipConfig, weights: TextWeights, count: int, form: Form = PLAIN) -> ir.Model:
    """The text tower's last ``count`` blocks: tokens before them and image vectors -> text embedding, similarity,
    dc/d(tokens). The last token of each text is its end token. In an int8 bundle it is float32, as the text graph is.
    """
    g, width = Graph(replace(form, precision="fp32") if form.precision == "int8" else form), config.text.width
    tower = Tower(g, config.text, causal=True)
    state = g.input("text_state", ["P", "L", width])
    unit_image = normalise(g, g.input("image", ["B", config.embed_dim]))[0]
    length = g.shape(state, 1)
    tokens = Tokens(g.reshape(state, -1, width), length)
    dense: list[tuple[BlockWeights, DenseBlock]] = []
    for block in weights.blocks[-count:]:
        dense.append((block, dense_forward(tower, tokens, block)))
        tokens = dense[-1][1].out
    end = g.op("Squeeze", g.sub(length, g.integers(1)))
    head = head_of(tower, "text", g.op("Gather", tower.tokens3d(tokens.flat, length), end, axis=1), weights)
    similarity = g.op("Gemm", head.unit, unit_image, transB=1)

    # What the VJP calls images and prompts are here the texts and the images.
    vjp = Vjp(tower, g.shape(head.unit, 0), g.shape(unit_image, 0))
    down = DenseVjp(vjp, length)
    at_end = g.op("Equal", g.op("Range", g.scalar(0), g.op("Squeeze", length), g.scalar(1)), end)
    at_end = g.unsqueeze(g.op("Where", at_end, g.constant(1.0), g.constant(0.0)), 1)
    cotangent = g.mul(at_end, g.unsqueeze(vjp.head(head, unit_image, similarity), 2))
    for block, kept in reversed(dense):
        cotangent = down.input(block, *down.middle(block, cotangent, kept), kept)
    g.output("text_embedding", head.unit, ["P", config.embed_dim])
    g.output("text_similarity", similarity, ["P", "B"])
    g.output("text_state_gradient", cotangent, ["P", "B", "L", width])
    return finish(g, f"text_tail_{count}", f"tokens and image vectors through the last {count} text block(s), and back")


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
