"""Grad-CAM on the last block, where a "channel" is one of the D channels of its tokens.

dc/dU of the last block's LayerNorm output U has rank 2H per text (see ``dense.py``), so its mean over tokens is a sum
over heads before any token sees it: nothing of [B, P, T, D] is made.
"""

from __future__ import annotations

import onnx_ir as ir

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.ends import finish, head_of, normalise, vision_tower
from eyeshine_export.graph.explained import class_output_block
from eyeshine_export.graph.forward import Normed, OutputBlock
from eyeshine_export.graph.ops import PLAIN, Form
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import RowVjp, Vjp
from eyeshine_export.graph.weights import BlockWeights, VisionWeights

__all__ = ["gradcam_graph"]


def gradcam_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels and text -> embedding, similarity and Grad-CAM before its ReLU, in both conventions.

    ``grad_cam``: features are the last block's LayerNorm output U, weights the mean of dc/dU over the patches.
    ``grad_cam_input``: features are its input X, weights the mean of dc/dX over all tokens.
    """
    tower, tokens = vision_tower(config, weights, form)
    g, (*below, last) = tower.g, as_stored(weights.blocks, form)
    unit_text = normalise(g, g.input("text", ["P", config.embed_dim]))[0]
    for block in below:
        tokens = tower.trunk_block(tokens, block)
    output, length = class_output_block(tower, tokens, last), tokens.length
    assert isinstance(length, int)
    head = head_of(tower, "visual", output.out, weights)
    similarity = g.op("Gemm", head.unit, unit_text, transB=1)

    vjp = Vjp(tower, g.shape(head.unit, 0), g.shape(unit_text, 0))
    row = vjp.row(last, vjp.head(head, unit_text, similarity), output.norm2, output.act)
    inputs = tower.tokens3d(tokens.flat, length)
    norm1 = tower.norm_kept(inputs, f"{last.name}.norm1", last.norm1)
    means = _Means(vjp, last, row, output, norm1, length)
    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("similarity", similarity, ["B", "P"])
    for name, channels, features in (
        ("grad_cam", means.normed(), norm1.value), ("grad_cam_input", means.inputs(), inputs),
    ):  # fmt: skip
        of_patches = g.transpose(g.slice(features, 1, 1, length), 0, 2, 1)
        g.output(name, g.matmul(channels, of_patches), ["B", "P", length - 1])
    return finish(g, "gradcam", "pixels and text vectors to Grad-CAM of the last block")


class _Means:
    """Means over tokens of the last block's gradient, [B, P, D].

    For patch j, dc/dU[j] = sum_h A_h[j] W_v,hᵀ g_h + dS_h[j] W_k,hᵀ q_h, with dS = dc/d(scores) of the class row.
    """

    def __init__(
        self, vjp: Vjp, weights: BlockWeights, row: RowVjp, block: OutputBlock, norm1: Normed, length: int
    ) -> None:
        g = self.g = vjp.g
        self.vjp, self.tower, self.length = vjp, vjp.tower, length
        self.weights, self.row, self.block, self.norm1 = weights, row, block, norm1
        self.attention = self._patches(g.transpose(g.unsqueeze(block.attention, 1), 0, 1, 3, 2))  # [B, 1, N, H]
        self.scores = self._patches(vjp.row_scores(row, block))  # [B, P, N, H]

    def normed(self) -> ir.Value:
        """mean over the patches of dc/dU."""
        total = self._through(self.g.sum(self.attention, 2), self.g.sum(self.scores, 2))
        return self.g.mul(total, self.g.constant(1 / (self.length - 1)))

    def inputs(self) -> ir.Value:
        """mean over all tokens of dc/dX, which is LNᵀ(dc/dU[j]; j): every token has its own x-hat and sigma.

        A patch's mean(s dc/dU x-hat) is <g_h, W_v,h(s x-hat)> and its like for the keys, and W_v(s x-hat) is the value
        of the patch less that of x-hat = 0.
        """
        g, tower, vjp = self.g, self.tower, self.vjp
        inverse = self._patches(g.transpose(self.norm1.inverse, 0, 2, 1))  # [B, 1, N]
        per_patch = g.unsqueeze(inverse, 3)
        total = self._through(g.sum(g.mul(self.attention, per_patch), 2), g.sum(g.mul(self.scores, per_patch), 2))
        scaled = g.mul(total, self.norm1.scale)

        to_values = self._per_head(self.row.gradient, self._less_rest(self.block.values, "value"))
        scaled_query = g.mul(g.unsqueeze(self.block.query, 1), g.constant(tower.scale))
        to_keys = self._per_head(scaled_query, self._less_rest(self.block.keys, "key"))
        dots = g.sum(g.add(g.mul(self.attention, to_values), g.mul(self.scores, to_keys)), 3)
        along = g.mul(g.mul(dots, inverse), g.constant(1 / tower.config.width))
        along_xhat = g.matmul(along, g.slice(self.norm1.xhat, 1, 1, self.length))
        of_patches = g.sub(g.sub(scaled, g.mean(scaled)), along_xhat)

        class_norm1 = Normed(
            g.first(self.norm1.value, 1), g.first(self.norm1.xhat, 1), g.first(self.norm1.inverse, 1), self.norm1.scale
        )
        of_class = vjp.class_row_input(self.weights, self.row, self.block, class_norm1)
        return g.mul(g.add(of_patches, of_class), g.constant(1 / self.length))

    def _patches(self, x: ir.Value) -> ir.Value:
        """[B, P, T, ...] -> [B, P, N, ...]."""
        return self.g.slice(x, 2, 1, self.length)

    def _through(self, attention: ir.Value, scores: ir.Value) -> ir.Value:
        """sum_h a_h W_v,hᵀ g_h + s_h W_k,hᵀ q_h [B, P, D] of sums over patches: a [B, 1, H], s [B, P, H]."""
        g, tower, width = self.g, self.tower, self.vjp.width
        to_channels = g.constant(tower.head_mask.T)
        value = g.mul(self.row.gradient, g.matmul(attention, to_channels))
        scaled_query = g.mul(g.unsqueeze(self.block.query, 1), g.constant(tower.scale))
        key = g.mul(g.matmul(scores, to_channels), scaled_query)
        of_value = g.linear_vjp(self.vjp.flat(value, width), tower.matrix(self.weights, "value"))
        total = g.linear_vjp(self.vjp.flat(key, width), tower.matrix(self.weights, "key"), of_value)
        return self.vjp.rows(total, width)

    def _per_head(self, rows: ir.Value, tokens: ir.Value) -> ir.Value:
        """<rows_h, tokens_h> [B, P, N, H] of rows [B, P, D] and tokens [B, 1, N, D]."""
        g = self.g
        return g.matmul(tokens, g.mul(g.unsqueeze(rows, 3), g.constant(self.tower.head_mask)))

    def _less_rest(self, projected: ir.Value, part: str) -> ir.Value:
        """Patches' values or keys [B, T, D] less those of a token with x-hat = 0, [B, 1, N, D]."""
        g = self.g
        bias = self.tower.norm_weights(f"{self.weights.name}.norm1", self.weights.norm1)[1]
        rest = self.tower.linear(g.reshape(bias, 1, -1), self.weights, part)
        return self._patches(g.unsqueeze(g.sub(projected, rest), 1))
