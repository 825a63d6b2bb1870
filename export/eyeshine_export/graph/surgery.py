"""Graphs whose last blocks attend otherwise than the deployed model's, so that every token's feature speaks of its own
place; forward only, no gradient.

``surgery``: CLIP Surgery's second path through the last blocks (Li et al., section 3.2). ``patch_features``: the last
block alone, four ways (MaskCLIP, SCLIP, ClearCLIP, NACLIP). The class row is the deployed model's in both.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from eyeshine_export.config import ClipConfig, VisionConfig
from eyeshine_export.graph.ends import finish, head_of, normalise, vision_tower
from eyeshine_export.graph.explained import class_output_block
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Array, Dim, Form, Graph
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.weights import VisionWeights

__all__ = ["GAUSSIAN_STD", "patch_features_graph", "surgery_graph"]

GAUSSIAN_STD: Final = 5.0
"""NACLIP's, in patches."""


def surgery_graph(config: ClipConfig, weights: VisionWeights, depth: int, form: Form = PLAIN) -> ir.Model:
    """pixels and text -> embedding, similarity and the features of CLIP Surgery over the last ``depth`` blocks.

    Each of these blocks adds softmax(V Vᵀ/sqrt(d)) V to a second path, through the same output projection; V comes from
    the deployed path, and the second has no MLP.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, trunk, blocks = tower.g, tower.explained, as_stored(weights.blocks, form)
    for block in blocks[:-depth]:
        tokens = tower.trunk_block(tokens, block)
    path, length = tokens.flat, tokens.length
    for block in blocks[-depth:-1]:
        query, key, value = tower.project_qkv(tokens, block, trunk)
        path = tower.out_residual(path, tower.attention([value] * 3, length, trunk), block, trunk)
        y = tower.out_residual(tokens.flat, tower.attention([query, key, value], length, trunk), block, trunk)
        tokens = Tokens(tower.mlp_residual(y, block, trunk), length)
    output = class_output_block(tower, tokens, blocks[-1])
    value = trunk.enter(g.reshape(output.values, -1, config.vision.width))
    path = tower.out_residual(path, tower.attention([value] * 3, length, trunk), blocks[-1], trunk)

    patches = _patches(g, tower.tokens3d(path, length), config.vision)
    rows = g.reshape(g.concat([g.unsqueeze(output.out, 1), patches], 1), -1, config.vision.width)
    features = _features(tower, weights, rows, length)
    _cosines(g, config, g.first(features, 1))
    g.output("surgery_features", features, ["B", 1 + _patch_count(config.vision), config.embed_dim])
    return finish(g, "surgery", f"pixels to features of CLIP Surgery over the last {depth} block(s)")


def patch_features_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels and text -> embedding, similarity and patch features of the last block with other attentions A.

    MaskCLIP: A = I. SCLIP: A = softmax(Q Qᵀ/sqrt(d)) + softmax(K Kᵀ/sqrt(d)). ClearCLIP: A = softmax(Q Qᵀ/sqrt(d)).
    NACLIP: A = softmax(K Kᵀ/sqrt(d) + a Gaussian of the patches' distance). The last two and "maskclip_bare" have no
    residual and no MLP.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, trunk, (*below, last) = tower.g, tower.explained, as_stored(weights.blocks, form)
    for block in below:
        tokens = tower.trunk_block(tokens, block)
    output, length, width = class_output_block(tower, tokens, last), tokens.length, config.vision.width
    normed = trunk.enter(tower.norm(tokens.flat, f"{last.name}.norm1", last.norm1))
    query = trunk.linears(normed, last, "query")[0]
    key, value = (trunk.enter(g.reshape(x, -1, width)) for x in (output.keys, output.values))

    by_query = tower.attention([query, query, value], length, trunk)
    by_key = tower.attention([key, key, value], length, trunk)
    near = _attention_near(tower, config.vision, key, value, length)
    whole = {"maskclip": value, "sclip": g.add(by_query, by_key)}
    bare = {"maskclip_bare": value, "clearclip": by_query, "naclip": near}
    dims: list[Dim] = ["B", _patch_count(config.vision), config.embed_dim]
    rows = {name: trunk.leave(trunk.linears(mixed, last, "out")[0]) for name, mixed in bare.items()}
    for name, mixed in whole.items():
        rows[name] = tower.mlp_residual(tower.out_residual(tokens.flat, mixed, last, trunk), last, trunk)
    for name, flat in rows.items():
        g.output(f"{name}_features", _patches(g, _features(tower, weights, flat, length), config.vision), dims)
    _cosines(g, config, head_of(tower, "visual", output.out, weights).unit)
    return finish(g, "patch_features", "pixels to patch features of MaskCLIP, SCLIP, ClearCLIP and NACLIP")


def _attention_near(
    tower: Tower, vision: VisionConfig, key: ir.Value, value: ir.Value, length: int | ir.Value
) -> ir.Value:  # fmt: skip
    """softmax(K Kᵀ/sqrt(d) + window) V, flat in and out; window = exp(-|p_i - p_j|²/2s²), 0 to and from the class."""
    g, trunk = tower.g, tower.explained
    scaled = g.mul(tower.split_heads(key, length, 0, 2, 1, 3), trunk.constant(tower.scale))
    scores = trunk.leave(g.matmul(scaled, tower.split_heads(key, length, 0, 2, 3, 1)))
    rows, columns = vision.grid
    # A Gaussian of a distance in the plane is one of its rows times one of its columns: two small constants.
    down = g.constant(_gaussian(rows).reshape(rows, 1, rows, 1))
    across = g.constant(_gaussian(columns).reshape(1, columns, 1, columns))
    window = g.reshape(g.mul(down, across), rows * columns, rows * columns)
    weights = g.softmax(g.add(scores, g.op("Pad", window, g.integers(1, 1, 0, 0))))
    return tower.merge_heads(g.matmul(trunk.enter(weights), tower.split_heads(value, length, 0, 2, 1, 3)))


def _gaussian(count: int) -> Array:
    """[count, count] of the places' distance along one axis."""
    places = np.arange(count)
    gaussian: Array = np.exp(-((places[:, None] - places) ** 2) / (2 * GAUSSIAN_STD**2))
    return gaussian


def _features(tower: Tower, weights: VisionWeights, rows: ir.Value, length: int | ir.Value) -> ir.Value:
    """Flat tokens [B*T, D] through the head of the class token -> unit features [B, T, E]."""
    return tower.g.reshape(head_of(tower, "visual", rows, weights).unit, -1, length, weights.projection.shape[1])


def _patches(g: Graph, x: ir.Value, vision: VisionConfig) -> ir.Value:
    """[B, T, C] without the class token."""
    return g.slice(x, 1, 1, 1 + _patch_count(vision))


def _patch_count(vision: VisionConfig) -> int:
    return vision.grid[0] * vision.grid[1]


def _cosines(g: Graph, config: ClipConfig, unit: ir.Value) -> None:
    """Outputs ``embedding`` and ``similarity`` of the class token's unit feature [B, E] and the input ``text``."""
    unit_text = normalise(g, g.input("text", ["P", config.embed_dim]))[0]
    g.output("embedding", unit, ["B", config.embed_dim])
    g.output("similarity", g.op("Gemm", unit, unit_text, transB=1), ["B", "P"])
