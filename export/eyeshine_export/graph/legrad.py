"""LeGrad: every explained block is asked for itself what its tokens' mean says of the target.

No gradient crosses a block, and the cotangent of a mean is the same for every token: it goes through the MLP's second
matrix once per text, not once per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.dense import DenseVjp, per_token
from eyeshine_export.graph.ends import finish, head_of, vision_tower
from eyeshine_export.graph.forward import Normed, Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Form
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import BlockWeights, VisionWeights

__all__ = ["legrad_graph"]


@dataclass(frozen=True)
class _Block:
    """A forward block with what its own VJP reads: values [B, T, D], norm2 and the MLP's slope of all tokens."""

    weights: BlockWeights
    values: ir.Value
    norm2: Normed
    slope: ir.Value
    out: Tokens


def legrad_graph(config: ClipConfig, weights: VisionWeights, layers: int, form: Form = PLAIN) -> ir.Model:
    """pixels and target -> embedding, and LeGrad of the last ``layers`` blocks, each by itself.

    With f the unit head of the mean of all tokens after a block and s = <f, target>: mean over heads and query rows of
    ReLU(ds/dA_h). The mean is the released code's, over the class token and the patches; the model's head takes the
    class token alone.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, blocks = tower.g, as_stored(weights.blocks, form)
    target = g.input("target", ["P", config.embed_dim])
    for block in blocks[:-layers]:
        tokens = tower.trunk_block(tokens, block)
    explained: list[_Block] = []
    for block in blocks[-layers:]:
        explained.append(_forward(tower, tokens, block))
        tokens = explained[-1].out

    assert isinstance(tokens.length, int)
    head = head_of(tower, "visual", g.first(tower.tokens3d(tokens.flat, tokens.length), 1), weights)
    maps = [_explain(tower, weights, block, target) for block in explained]
    patches = [g.slice(g.unsqueeze(relevance, 2), 3, 1, tokens.length) for relevance in maps]
    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("legrad", g.concat(patches, 2), ["B", "P", layers, tokens.length - 1])
    return finish(g, "legrad", f"pixels and targets to LeGrad of {layers} block(s)")


def _forward(tower: Tower, tokens: Tokens, block: BlockWeights) -> _Block:
    g, trunk, length = tower.g, tower.explained, tokens.length
    qkv = tower.project_qkv(tokens, block, trunk)
    y = tower.out_residual(tokens.flat, tower.attention(qkv, length, trunk), block, trunk)
    norm2 = tower.norm_kept(y, f"{block.name}.norm2", block.norm2)
    act = tower.activation_kept(tower.linear(norm2.value, block, "expand"))
    out = g.add(y, tower.linear(act.value, block, "project"))
    slope = g.reshape(act.slope, -1, 1, length, block.expand[0].shape[0])
    values = tower.tokens3d(trunk.leave(qkv[2]), length)
    return _Block(block, values, per_token(tower, norm2, length), slope, Tokens(out, length))


def _explain(tower: Tower, weights: VisionWeights, block: _Block, target: ir.Value) -> ir.Value:
    """mean over heads and query rows of ReLU(ds/dA_h), [B, P, T]."""
    g, width, length = tower.g, tower.config.width, block.out.length
    assert isinstance(length, int)
    pooled = g.op("ReduceMean", tower.tokens3d(block.out.flat, length), g.integers(1), keepdims=0)
    head = head_of(tower, "visual", pooled, weights)
    vjp = Vjp(tower, g.shape(pooled, 0), g.shape(target, 0))
    top = vjp.head(head, target, g.op("Gemm", head.unit, target, transB=1))
    every = g.unsqueeze(g.mul(top, g.constant(1 / length)), 2)

    inner = g.reshape(vjp.mlp(block.weights, every, block.slope), vjp.images, vjp.prompts, length, width)
    middle = g.add(every, vjp.norm(inner, vjp.per_image(block.norm2)))
    towards = DenseVjp(vjp, length).attention(vjp.out(block.weights, middle), block.values)
    return g.op("ReduceMean", g.op("Relu", towards), g.integers(2, 3), keepdims=0)
