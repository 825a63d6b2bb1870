"""Whole graphs: ``encode``, ``image`` (last block explained), ``deep`` (K blocks explained), ``text``.

One builder makes every tower from three settings: mask (none or causal), the row that carries the output (class token
or end-of-text), and head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from eyeshine.signals import SIGNALS
from eyeshine_export.config import ClipConfig, TextConfig, VisionConfig
from eyeshine_export.graph.dense import DenseBlock, dense_forward
from eyeshine_export.graph.explained import TO_THE_END, LowestBlock, Stack, class_row, gradients_of, spatial_weights
from eyeshine_export.graph.forward import OutputBlock, Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form, Graph
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Head, Vjp
from eyeshine_export.graph.weights import BlockWeights, TextWeights, VisionWeights

__all__ = ["encode_graph", "explain_graph", "text_graph", "text_tower"]


def encode_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels -> embedding, with the last block cut to the class row."""
    tower, tokens = _vision_tower(config, weights, form)
    blocks = as_stored(weights.blocks, form)
    for block in blocks[:-1]:
        tokens = tower.trunk_block(tokens, block)
    output = _class_output_block(tower, tokens, blocks[-1])
    head = _head(tower, "visual", output.out, weights)
    tower.g.output("embedding", head.unit, ["B", config.embed_dim])
    return _finish(tower.g, "encode", "pixels to image embedding")


def explain_graph(
    config: ClipConfig, weights: VisionWeights, layers: int = 1, form: Form = PLAIN, *, queries: bool = False
) -> ir.Model:
    """pixels and text -> embedding, similarity and the signals of the last ``layers`` blocks.

    With ``queries`` those of the patches as well; the last block computes the class row's alone otherwise.
    """
    tower, tokens = _vision_tower(config, weights, form)
    g, blocks, depth = tower.g, as_stored(weights.blocks, form), len(weights.blocks)
    text, similarity_dims = g.input("text", ["P", config.embed_dim]), ["B", "P"]
    for block in blocks[: depth - layers]:
        tokens = tower.trunk_block(tokens, block)
    stack = explained_stack(tower, tokens, blocks[depth - layers :])
    head = _head(tower, "visual", stack.output.out, weights)

    unit_text = _unit(g, text)[0]
    similarity = g.op("Gemm", head.unit, unit_text, transB=1)
    vjp = Vjp(tower, g.shape(head.unit, 0), g.shape(unit_text, 0))
    top = vjp.head(head, unit_text, similarity)
    signals = block_signals(tower, stack, gradients_of(vjp, top, stack))
    if queries:
        signals["queries"] = _patch_queries(tower, stack)

    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("similarity", similarity, similarity_dims)
    output_blocks(tower, config.vision, signals, layers)
    name = "queries" if queries else "image" if layers == 1 else "deep"
    return _finish(g, name, f"pixels and text vectors to similarity, signals and gradient of {layers} block(s)")


def text_graph(config: ClipConfig, weights: TextWeights, form: Form = PLAIN) -> ir.Model:
    """tokens -> text embedding; the last block computes the end-of-text row only.

    The token axis is dynamic: what stands after the last end-of-text token can be left out by the caller. There is no
    such graph in int8: a text is embedded once, its vector is used for ever.
    """
    tower, tokens, row_index = text_tower(config, weights, form)
    g, length = tower.g, tokens.length
    assert isinstance(length, ir.Value)
    for block in weights.blocks[:-1]:
        tokens = tower.trunk_block(tokens, block)

    later = g.op("Greater", g.op("Range", g.scalar(0), g.op("Squeeze", length), g.scalar(1)), row_index)
    mask = g.unsqueeze(g.masked(later), 1)
    last = weights.blocks[-1]
    normed = tower.norm(tokens.flat, f"{last.name}.norm1", last.norm1)

    def take(flat: ir.Value) -> ir.Value:
        return g.op("GatherND", tower.tokens3d(flat, length), row_index, batch_dims=1)

    output = tower.output_block(tokens, take(tokens.flat), normed, take(normed), last, mask)
    head = _head(tower, "text", output.out, weights)
    g.output("text_embedding", head.unit, ["P", config.embed_dim])
    return _finish(g, "text", "token ids to text embedding")


# -- parts -----------------------------------------------------------------------------------------------------


def explained_stack(tower: Tower, tokens: Tokens, blocks: tuple[BlockWeights, ...]) -> Stack:
    """Tokens through the explained blocks, which keep what the gradient needs; of the last, the class row alone."""
    lowest = LowestBlock(tower, tokens, blocks[0]) if len(blocks) > 1 else None
    if lowest is not None:
        tokens = lowest.out
    dense: list[DenseBlock] = []
    for block in blocks[1:-1]:
        dense.append(dense_forward(tower, tokens, block))
        tokens = dense[-1].out
    return Stack(blocks, lowest, dense, _class_output_block(tower, tokens, blocks[-1]), tokens)


def block_signals(tower: Tower, stack: Stack, gradients: list[ir.Value]) -> dict[str, ir.Value]:
    """The per-block signals by name, stacked along K in ascending order of blocks."""
    g, output, whole = tower.g, stack.output, stack.whole
    attention = [g.first(x.attention, 2) if isinstance(x, DenseBlock) else x.class_attention for x in whole]
    query = g.stack([*(g.first(x.query, 1) for x in whole), output.query], 1)
    keys = g.stack([*(x.keys for x in whole), output.keys], 1)
    return {
        "class_query": query,
        "keys": keys,
        "spatial_weights": spatial_weights(g, query, keys),
        "values": g.stack([*(x.values for x in whole), output.values], 1),
        "class_attention": g.stack([*attention, output.attention], 1),
        "gradient": g.stack(gradients, 2),
    }


def _patch_queries(tower: Tower, stack: Stack) -> ir.Value:
    """[B, K, N, D]; the only product that a last block does not make otherwise."""
    g, trunk, last = tower.g, tower.explained, stack.weights[-1]
    normed = tower.norm(stack.before_output.flat, f"{last.name}.norm1", last.norm1)
    flat = trunk.leave(trunk.linears(trunk.enter(normed), last, "query")[0])
    queries = [*(x.query for x in stack.whole), tower.tokens3d(flat, stack.before_output.length)]
    return g.slice(g.stack(queries, 1), 2, 1, TO_THE_END)


def output_blocks(tower: Tower, vision: VisionConfig, signals: Mapping[str, ir.Value], count: int) -> None:
    """Declare per-block signals of ``count`` blocks as outputs, under their names."""
    patches = vision.grid[0] * vision.grid[1]
    sizes = {"K": count, "D": vision.width, "H": vision.heads, "T": 1 + patches, "N": patches}
    for name, value in signals.items():
        tower.g.output(name, value, [sizes.get(dim, dim) for dim in SIGNALS[name].dims])


def _vision_tower(config: ClipConfig, weights: VisionWeights, form: Form) -> tuple[Tower, Tokens]:
    """The image tower up to the first block: pixels -> tokens."""
    tower = Tower(Graph(form), config.vision, causal=False)
    tokens = _embed_pixels(tower, config.vision, weights)
    if weights.pre_norm is not None:
        tokens = Tokens(tower.norm(tokens.flat, "visual.pre_norm", weights.pre_norm), tokens.length)
    return tower, tokens


def _embed_pixels(tower: Tower, vision: VisionConfig, weights: VisionWeights) -> Tokens:
    """The input ``pixels`` -> tokens before the LayerNorm that stands before the first block."""
    g = tower.g
    (rows, columns), (patch_h, patch_w) = vision.grid, vision.patch_size
    pixels = g.input("pixels", ["B", 3, *vision.image_size])
    if vision.image_size[0] % patch_h or vision.image_size[1] % patch_w:
        pixels = g.slice(g.slice(pixels, 2, 0, rows * patch_h), 3, 0, columns * patch_w)
    # A convolution with stride = kernel is this reshape and one Gemm, without im2col and the transpose after it.
    patches = g.transpose(g.reshape(pixels, -1, 3, rows, patch_h, columns, patch_w), 0, 2, 4, 1, 3, 5)
    flat = tower.explained.enter(g.reshape(patches, -1, 3 * patch_h * patch_w))
    flat = tower.explained.leave(g.op("Gemm", flat, g.stored("visual.patch", weights.patch), transB=1))
    embedded = g.add(tower.tokens3d(flat, rows * columns), g.weight("visual.positions", weights.positions))
    class_token = g.op(
        "Expand",
        g.weight("visual.class_token", weights.class_token.reshape(1, 1, -1)),
        g.concat([g.shape(embedded, 0), g.integers(1, 1)], 0),
    )
    length = 1 + rows * columns
    return Tokens(g.reshape(g.concat([class_token, embedded], 1), -1, vision.width), length)


def text_tower(config: ClipConfig, weights: TextWeights, form: Form) -> tuple[Tower, Tokens, ir.Value]:
    """The text tower up to the first block: tokens [P, L] -> tokens, and the end-of-text token of each text [P, 1]."""
    g = Graph(replace(form, precision="fp32") if form.precision == "int8" else form)
    tower = Tower(g, config.text, causal=True)
    ids = g.input("tokens", ["P", "L"], ir.DataType.INT64)
    length = g.shape(ids, 1)
    # Gathered as stored: the whole table in float32 would be the largest tensor of the graph.
    embedded = g.op("Gather", g.stored("text.token_embedding", weights.token_embedding), ids, axis=0)
    embedded = tower.explained.leave(embedded)
    positions = g.op("Slice", g.weight("text.positions", weights.positions), g.integers(0), length, g.integers(0))
    tokens = Tokens(g.reshape(g.add(embedded, positions), -1, config.text.width), length)
    return tower, tokens, g.unsqueeze(_end_row(g, ids, config.text), 1)


def _class_output_block(tower: Tower, tokens: Tokens, block: BlockWeights) -> OutputBlock:
    normed = tower.norm(tokens.flat, f"{block.name}.norm1", block.norm1)
    row = class_row(tower, tokens.flat, tokens.length)
    normed_row = class_row(tower, normed, tokens.length)
    return tower.output_block(tokens, row, normed, normed_row, block, None)


def _head(tower: Tower, name: str, row: ir.Value, weights: TextWeights | VisionWeights) -> Head:
    """LayerNorm, projection and length of one row [B, D]."""
    g = tower.g
    norm = tower.norm_kept(row, f"{name}.final_norm", weights.final_norm)
    projection = g.weight(f"{name}.projection", weights.projection)
    unit, inverse = _unit(g, g.op("Gemm", norm.value, projection))
    return Head(norm, projection, unit, inverse)


def _unit(g: Graph, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """x/|x| and 1/|x| along the last axis."""
    inverse = g.op("Reciprocal", g.op("Sqrt", g.sum(g.mul(x, x), -1, keep=True)))
    return g.mul(x, inverse), inverse


def _end_row(g: Graph, ids: ir.Value, text: TextConfig) -> ir.Value:
    """Index of the end-of-text token of each text [P]."""
    scores = ids
    if text.end_id is not None:
        scores = g.op("Cast", g.op("Equal", ids, g.integers(text.end_id)), to=ir.DataType.INT64.value)
    return g.op("ArgMax", scores, axis=1, keepdims=0)


def _finish(g: Graph, name: str, doc: str) -> ir.Model:
    model = g.model(f"eyeshine.{name}", doc)
    RemoveUnusedNodesPass()(model)
    return model
