"""The graph of another model than the deployed one: its last blocks with one head each, as Grad-ECLIP's code has them.

One head takes queries and keys over all D channels with the scale ``D^-1/2``; weights, residuals and MLPs stay. The
embedding, the cosine and the gradient are then those of this model, and begin with ``single_head_``; ``embedding`` and
``similarity`` are the deployed model's.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from eyeshine.signals import MODIFIED
from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.ends import finish, head_of, normalise, vision_tower
from eyeshine_export.graph.explained import (
    Stack,
    block_signals,
    class_output_block,
    explained_stack,
    gradients_of,
    spatial_weights,
)
from eyeshine_export.graph.forward import Tower
from eyeshine_export.graph.ops import PLAIN, Form
from eyeshine_export.graph.towers import output_blocks
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import VisionWeights

__all__ = ["single_head_graph"]


def single_head_graph(config: ClipConfig, weights: VisionWeights, layers: int, form: Form = PLAIN) -> ir.Model:
    """pixels and text -> cosines of both models, and what Grad-ECLIP reads of the last blocks with one head each.

    ``single_head_spatial_weights_out`` is lambda of queries and keys that went through the output projection, bias and
    LayerScale included.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, blocks = tower.g, as_stored(weights.blocks, form)
    for block in blocks[:-layers]:
        tokens = tower.trunk_block(tokens, block)
    deployed = tokens
    for block in blocks[-layers:-1]:
        deployed = tower.trunk_block(deployed, block)
    unit_text = normalise(g, g.input("text", ["P", config.embed_dim]))[0]
    head = head_of(tower, "visual", class_output_block(tower, deployed, blocks[-1]).out, weights)
    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("similarity", g.op("Gemm", head.unit, unit_text, transB=1), ["B", "P"])

    merged = Tower(g, replace(config.vision, heads=1), causal=False)
    stack = explained_stack(merged, tokens, blocks[-layers:])
    merged_head = head_of(merged, "visual", stack.output.out, weights)
    similarity = g.op("Gemm", merged_head.unit, unit_text, transB=1)
    vjp = Vjp(merged, g.shape(merged_head.unit, 0), g.shape(unit_text, 0))
    found = block_signals(merged, stack, gradients_of(vjp, vjp.head(merged_head, unit_text, similarity), stack))
    read = {f"{MODIFIED}{name}": found[name] for name in ("values", "spatial_weights", "gradient")}
    read[f"{MODIFIED}spatial_weights_out"] = _after_out(merged, stack, found["class_query"])
    g.output(f"{MODIFIED}similarity", similarity, ["B", "P"])
    output_blocks(merged, config.vision, read, layers)
    return finish(g, "single_head", f"the last {layers} block(s) with one head: similarity, signals and gradient")


def _after_out(tower: Tower, stack: Stack, query: ir.Value) -> ir.Value:
    """Lambda [B, K, N] after the output projection; query [B, K, D]."""
    g, trunk, length, queries, keys = tower.g, tower.explained, stack.before_output.length, [], []
    for index, (block, kept) in enumerate(zip(stack.weights, (*stack.whole, stack.output), strict=True)):
        queries.append(tower.linear(g.op("Gather", query, g.scalar(index), axis=1), block, "out"))
        flat = trunk.enter(g.reshape(kept.keys, -1, tower.config.width))
        keys.append(tower.tokens3d(trunk.leave(trunk.linears(flat, block, "out")[0]), length))
    return spatial_weights(g, g.stack(queries, 1), g.stack(keys, 1))
