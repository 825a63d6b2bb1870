"""The text tower with its last blocks explained: which words of a text make its cosine with an image.

The row that carries the output is the end-of-text token's, another place in every text, and attention is causal. Texts
are short, so whole blocks are differentiated, all tokens of them, with none of the image tower's shortcuts.
"""

from __future__ import annotations

import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.dense import DenseBlock, DenseVjp, dense_forward
from eyeshine_export.graph.ends import finish, head_of, normalise, text_tower
from eyeshine_export.graph.ops import PLAIN, Dim, Form
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import BlockWeights, TextWeights

__all__ = ["words_graph"]


def words_graph(config: ClipConfig, weights: TextWeights, layers: int, form: Form = PLAIN) -> ir.Model:
    """tokens and image vectors -> text embedding, similarity and the signals of the last ``layers`` blocks.

    In an int8 bundle it is float32, as the text graph is.
    """
    tower, tokens, row_index = text_tower(config, weights, form)
    g, text, length = tower.g, config.text, tokens.length
    assert isinstance(length, ir.Value)
    image = g.input("image", ["B", config.embed_dim])
    for block in weights.blocks[: text.layers - layers]:
        tokens = tower.trunk_block(tokens, block)
    explained: list[tuple[BlockWeights, DenseBlock]] = []
    for block in weights.blocks[text.layers - layers :]:
        explained.append((block, dense_forward(tower, tokens, block)))
        tokens = explained[-1][1].out

    def take(x: ir.Value) -> ir.Value:
        """What stands at the end-of-text token: [P, L, ...] -> [P, ...]."""
        return g.op("GatherND", x, row_index, batch_dims=1)

    head = head_of(tower, "text", take(tower.tokens3d(tokens.flat, length)), weights)
    unit_image = normalise(g, image)[0]
    similarity = g.op("Gemm", head.unit, unit_image, transB=1)

    # What the VJP calls images and prompts are here the texts and the images.
    vjp = Vjp(tower, g.shape(head.unit, 0), g.shape(unit_image, 0))
    down = DenseVjp(vjp, length)
    at_end = g.op("Equal", g.op("Range", g.scalar(0), g.op("Squeeze", length), g.scalar(1)), row_index)
    at_end = g.unsqueeze(g.op("Where", at_end, g.constant(1.0), g.constant(0.0)), 1, 3)
    cotangent = g.mul(at_end, g.unsqueeze(vjp.head(head, unit_image, similarity), 2))
    gradients: list[ir.Value] = []
    for block, forward in reversed(explained):
        middle, out = down.middle(block, cotangent, forward)
        gradients.insert(0, take(g.transpose(out, 0, 2, 1, 3)))
        if len(gradients) < layers:
            cotangent = down.input(block, middle, out, forward)

    def stack(values: list[ir.Value], axis: int) -> ir.Value:
        return g.concat([g.unsqueeze(value, axis) for value in values], axis)

    blocks = [forward for _, forward in explained]
    per_token: list[Dim] = ["P", layers, "L", text.width]
    attention = [take(g.transpose(x.attention, 0, 2, 1, 3)) for x in blocks]
    g.output("text_embedding", head.unit, ["P", config.embed_dim])
    g.output("text_similarity", similarity, ["P", "B"])
    g.output("text_queries", stack([x.query for x in blocks], 1), per_token)
    g.output("text_keys", stack([x.keys for x in blocks], 1), per_token)
    g.output("text_values", stack([x.values for x in blocks], 1), per_token)
    g.output("text_attention", stack(attention, 1), ["P", layers, text.heads, "L"])
    g.output("text_gradient", stack(gradients, 2), ["P", "B", layers, text.width])
    return finish(g, "words", f"tokens and image vectors to similarity, signals and gradient of {layers} text block(s)")
