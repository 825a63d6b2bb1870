"""The ends of a tower: what makes its tokens of pixels or of token ids, and the head that makes a vector of a row."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from eyeshine_export.config import ClipConfig, TextConfig, VisionConfig
from eyeshine_export.graph.explained import TO_THE_END
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import Array, Form, Graph
from eyeshine_export.graph.positions import any_positions
from eyeshine_export.graph.vjp import Head
from eyeshine_export.graph.weights import TextWeights, VisionWeights

__all__ = [
    "embed_pixels", "finish", "head_of", "normalise", "row_mask", "text_tower", "vision_tower",
]  # fmt: skip


def vision_tower(config: ClipConfig, weights: VisionWeights, form: Form) -> tuple[Tower, Tokens]:
    """The image tower up to the first block: pixels -> tokens."""
    tower = Tower(Graph(form), config.vision, causal=False)
    tokens = embed_pixels(tower, config.vision, weights)
    if weights.pre_norm is not None:
        tokens = Tokens(tower.norm(tokens.flat, "visual.pre_norm", weights.pre_norm), tokens.length)
    return tower, tokens


def embed_pixels(tower: Tower, vision: VisionConfig, weights: VisionWeights) -> Tokens:
    """The input ``pixels`` -> tokens before the LayerNorm that stands before the first block."""
    g, (patch_h, patch_w) = tower.g, vision.patch_size
    positions = g.weight("visual.positions", weights.positions)
    down: int | ir.Value
    across: int | ir.Value
    count: int | ir.Value
    if g.form.any_size:
        pixels = g.input("pixels", ["B", 3, "Y", "X"])
        down, across = (g.div(g.shape(pixels, 2 + i), g.integers(vision.patch_size[i])) for i in (0, 1))
        count, positions = g.mul(down, across), any_positions(g, positions, vision.grid, vision.width, down, across)
    else:
        pixels, (down, across) = g.input("pixels", ["B", 3, *vision.image_size]), vision.grid
        count = down * across
        if vision.image_size != (down * patch_h, across * patch_w):
            pixels = g.slice(g.slice(pixels, 2, 0, down * patch_h), 3, 0, across * patch_w)
    # A convolution with stride = kernel is this reshape and one Gemm, without im2col and the transpose after it.
    patches = g.transpose(g.reshape(pixels, -1, 3, down, patch_h, across, patch_w), 0, 2, 4, 1, 3, 5)
    flat = tower.explained.enter(g.reshape(patches, -1, 3 * patch_h * patch_w))
    flat = tower.explained.leave(g.op("Gemm", flat, g.stored("visual.patch", weights.patch), transB=1))
    embedded = g.add(tower.tokens3d(flat, count), positions)
    if weights.class_token is not None:
        embedded = g.concat([_for_each(g, "visual.class_token", weights.class_token, embedded), embedded], 1)
        count = count + 1 if isinstance(count, int) else g.add(count, g.integers(1))
    return Tokens(g.reshape(embedded, -1, vision.width), count)


def text_tower(config: ClipConfig, weights: TextWeights, form: Form) -> tuple[Tower, Tokens, ir.Value]:
    """The text tower up to the first block: tokens [P, L] -> tokens, and the row of each text's embedding [P, 1]."""
    g, text = Graph(replace(form, precision="fp32") if form.precision == "int8" else form), config.text
    tower = Tower(g, text, causal=text.causal)
    ids = g.input("tokens", ["P", text.context_length if text.whole_context else "L"], ir.DataType.INT64)
    length = g.shape(ids, 1)
    # Gathered as stored: the whole table in float32 would be the largest tensor of the graph.
    embedded = g.op("Gather", g.stored("text.token_embedding", weights.token_embedding), ids, axis=0)
    embedded = tower.explained.leave(embedded)
    positions = g.op("Slice", g.weight("text.positions", weights.positions), g.integers(0), length, g.integers(0))
    embedded = g.add(embedded, positions)
    if weights.appended is not None:
        embedded = g.concat([embedded, _for_each(g, "text.appended", weights.appended, embedded)], 1)
        length = g.add(length, g.integers(1))
        tower.mask = g.add(tower.causal_mask(length), _appended_sees(g, ids, text))
    tokens = Tokens(g.reshape(embedded, -1, text.width), length)
    if text.pool == "end":
        return tower, tokens, g.unsqueeze(_end_row(g, ids, text), 1)
    last = g.op("Expand", g.sub(length, g.integers(1)), g.concat([g.shape(ids, 0), g.integers(1)], 0))
    return tower, tokens, last


def row_mask(tower: Tower, row: ir.Value, length: int | ir.Value) -> ir.Value | None:
    """What is added to the scores of one row of each text, [P, 1, T]; ``row`` [P, 1] as ``text_tower`` gives it."""
    g = tower.g
    if tower.mask is not None:  # of the appended token, which is the last
        return g.op("Squeeze", g.slice(tower.mask, 2, -1, TO_THE_END), g.integers(2))
    if not tower.causal:
        return None
    end = g.integers(length) if isinstance(length, int) else length
    later = g.op("Greater", g.op("Range", g.scalar(0), g.op("Squeeze", end), g.scalar(1)), row)
    return g.unsqueeze(g.masked(later), 1)


def head_of(
    tower: Tower, name: str, row: ir.Value, weights: TextWeights | VisionWeights, *, norm: bool = True,
    project: bool = True,
) -> Head:  # fmt: skip
    """LayerNorm, projection and length of one row [B, D]; the first two may be left out."""
    g = tower.g
    kept = tower.norm_kept(row, f"{name}.final_norm", weights.final_norm) if norm else None
    row = row if kept is None else kept.value
    projection = g.weight(f"{name}.projection", weights.projection) if project else None
    if projection is not None:
        bias = weights.projection_bias if isinstance(weights, TextWeights) else None
        row = g.op("Gemm", row, projection, *([] if bias is None else [g.weight(f"{name}.projection.bias", bias)]))
    unit, inverse = normalise(g, row)
    return Head(kept, projection, unit, inverse)


def normalise(g: Graph, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """x/|x| and 1/|x| along the last axis."""
    inverse = g.op("Reciprocal", g.op("Sqrt", g.sum(g.mul(x, x), -1, keep=True)))
    return g.mul(x, inverse), inverse


def finish(g: Graph, name: str, doc: str) -> ir.Model:
    """The graph as a model, without what no output needs."""
    model = g.model(f"eyeshine.{name}", doc)
    RemoveUnusedNodesPass()(model)
    return model


# -- parts -----------------------------------------------------------------------------------------------------


def _for_each(g: Graph, name: str, token: Array, beside: ir.Value) -> ir.Value:
    """A token [D] of the model for each entry of ``beside`` [B, T, D], as [B, 1, D]."""
    row = g.weight(name, token.reshape(1, 1, -1))
    return g.op("Expand", row, g.concat([g.shape(beside, 0), g.integers(1, 1)], 0))


def _appended_sees(g: Graph, ids: ir.Value, text: TextConfig) -> ir.Value:
    """[P, 1, 1, 1 + L] to add to scores: -inf at the places that CoCa takes for padding.

    open_clip's weights were trained with that mask one place to the right of the padding: the first place is always
    seen, place j where token j - 1 is no padding; so the appended token sees the first pad and, of a text that leaves
    room, not itself.
    """
    first = g.op("Expand", g.constant([[0.0]]), g.concat([g.shape(ids, 0), g.integers(1)], 0))  # type: ignore[list-item]
    hidden = g.masked(g.op("Equal", ids, g.integers(text.pad_id)))
    return g.unsqueeze(g.concat([first, hidden], 1), 1, 2)


def _end_row(g: Graph, ids: ir.Value, text: TextConfig) -> ir.Value:
    """Index of the end-of-text token of each text [P]."""
    scores = ids
    if text.end_id is not None:
        scores = g.op("Cast", g.op("Equal", ids, g.integers(text.end_id)), to=ir.DataType.INT64.value)
    return g.op("ArgMax", scores, axis=1, keepdims=0)
