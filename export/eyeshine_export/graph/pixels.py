"""The gradient of the cosine with respect to the pixels, and the same with rules of relevance propagation.

Every token of every block carries gradient: what the last block sends down (``DenseVjp.from_output_block``), one dense
VJP for each block under it, the LayerNorm before the first block, and the patch embedding, into which mean and std are
folded: the gradient is that of raw RGB in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.dense import DenseBlock, DenseVjp, dense_forward
from eyeshine_export.graph.ends import embed_pixels, finish, head_of, normalise
from eyeshine_export.graph.explained import class_output_block
from eyeshine_export.graph.forward import Normed, Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form, Graph
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import VisionWeights

__all__ = ["GRADIENT", "Rules", "pixels_graph"]


@dataclass(frozen=True)
class Rules:
    """What goes backward: the gradient itself, or a modified one (``lrp.py``).

    Attributes:
        output: name of the signal.
        tower: says the slope of the activation.
        vjp: goes back through norms, MLP and head.
        dense: goes back through attention.
    """

    output: str
    tower: type[Tower] = Tower
    vjp: type[Vjp] = Vjp
    dense: type[DenseVjp] = DenseVjp


GRADIENT: Final = Rules("pixel_gradient")


def pixels_graph(config: ClipConfig, weights: VisionWeights, rules: Rules = GRADIENT, form: Form = PLAIN) -> ir.Model:
    """pixels and text -> embedding, similarity, and d similarity / d pixels [B, P, 3, Y, X] by the rules."""
    g = Graph(form)
    tower = rules.tower(g, config.vision, causal=False)
    tokens, pre_norm = _first_tokens(tower, config, weights)
    *below, last = as_stored(weights.blocks, form)
    kept: list[DenseBlock] = []
    for block in below:
        kept.append(dense_forward(tower, tokens, block))
        tokens = kept[-1].out
    output = class_output_block(tower, tokens, last)
    head = head_of(tower, "visual", output.out, weights)
    unit_text = normalise(g, g.input("text", ["P", config.embed_dim]))[0]
    similarity = g.op("Gemm", head.unit, unit_text, transB=1)

    vjp = rules.vjp(tower, g.shape(head.unit, 0), g.shape(unit_text, 0))
    row = vjp.row(last, vjp.head(head, unit_text, similarity), output.norm2, output.act)
    assert isinstance(tokens.length, int)
    down = rules.dense(vjp, tokens.length)
    norm1 = tower.norm_kept(tower.tokens3d(tokens.flat, tokens.length), f"{last.name}.norm1", last.norm1)
    cotangent = down.from_output_block(last, row, output, norm1)
    for block, seen in zip(reversed(below), reversed(kept), strict=True):
        cotangent = down.input(block, *down.middle(block, cotangent, seen), seen)
    if pre_norm is not None:
        cotangent = vjp.norm(cotangent, vjp.per_image(pre_norm))

    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("similarity", similarity, ["B", "P"])
    g.output(rules.output, _to_pixels(vjp, config, weights, cotangent), ["B", "P", 3, *config.vision.image_size])
    return finish(g, rules.output, f"pixels and text vectors to similarity and {rules.output}")


def _first_tokens(tower: Tower, config: ClipConfig, weights: VisionWeights) -> tuple[Tokens, Normed | None]:
    """Tokens before the first block, and the LayerNorm that they come from, where there is one."""
    tokens = embed_pixels(tower, config.vision, weights)
    if weights.pre_norm is None:
        return tokens, None
    norm = tower.norm_kept(tower.tokens3d(tokens.flat, tokens.length), "visual.pre_norm", weights.pre_norm)
    return Tokens(tower.g.reshape(norm.value, -1, config.vision.width), tokens.length), norm


def _to_pixels(vjp: Vjp, config: ClipConfig, weights: VisionWeights, cotangent: ir.Value) -> ir.Value:
    """[B, P, T, D] of the embedded tokens -> [B, P, 3, Y, X]; zero where pixels fill no whole patch."""
    g, vision = vjp.g, config.vision
    (rows, columns), (patch_h, patch_w), (height, width) = vision.grid, vision.patch_size, vision.image_size
    patches = g.slice(cotangent, 2, 1, 1 + rows * columns)
    flat = g.linear_vjp(vjp.flat(patches, vision.width), g.weight("visual.patch", weights.patch))
    apart = g.transpose(g.reshape(flat, -1, rows, columns, 3, patch_h, patch_w), 0, 3, 1, 4, 2, 5)
    whole = g.reshape(apart, vjp.images, vjp.prompts, 3, rows * patch_h, columns * patch_w)
    below, right = height - rows * patch_h, width - columns * patch_w
    return g.op("Pad", whole, g.integers(*[0] * 8, below, right)) if below or right else whole
