"""The decoder's forward pass as ONNX operators, keeping what its gradient needs.

Tokens are a flat matrix [B*T, D], so that every linear layer is one Gemm; only attention sees [B, H, T, d].
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from eyeshine_export.captioner.model import EPS, Shape
from eyeshine_export.config import TowerConfig
from eyeshine_export.graph.forward import Activated, Normed, Tower
from eyeshine_export.graph.ops import Array, Graph

__all__ = ["Attended", "Decoder", "Layer"]


@dataclass(frozen=True)
class Attended:
    """An attention with what its VJP reads.

    Attributes:
        query, keys, values: per head, [B, H, T, d] and [B, H, S, d].
        attention: [B, H, T, S].
        mixed: its output, flat [B*T, D].
    """

    query: ir.Value
    keys: ir.Value
    values: ir.Value
    attention: ir.Value
    mixed: ir.Value


@dataclass(frozen=True)
class Layer:
    """One decoder layer; ``cross_query`` and ``out``, the tokens after the layer, are flat [B*T, D]."""

    norm_self: Normed
    own: Attended
    norm_cross: Normed
    cross_query: ir.Value
    cross: Attended
    norm_mlp: Normed
    act: Activated
    out: ir.Value


class Decoder:
    """Appends the captioner's operators to a graph.

    Args:
        graph: the graph under construction.
        shape: of the model.
        state: the model's arrays by name.
    """

    def __init__(self, graph: Graph, shape: Shape, state: dict[str, Array]) -> None:
        self.g, self.shape, self.state = graph, shape, state
        config = TowerConfig(shape.width, shape.layers, shape.heads, "gelu", EPS)
        self.tower = Tower(graph, config, causal=True)

    # -- pieces ------------------------------------------------------------------------------------------------

    def weight(self, name: str) -> ir.Value:
        return self.g.weight(name, self.state[name])

    def matrix(self, name: str) -> ir.Value:
        return self.weight(f"{name}.weight")

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        return self.g.linear(x, self.matrix(name), self.weight(f"{name}.bias"))

    def norm(self, x: ir.Value, name: str) -> Normed:
        return self.tower.norm_kept(x, name, (self.state[f"{name}.weight"], self.state[f"{name}.bias"]))

    def heads(self, flat: ir.Value, length: int | ir.Value) -> ir.Value:
        """Flat [B*T, D] -> [B, H, T, d]."""
        return self.tower.split_heads(flat, length, 0, 2, 1, 3)

    def attend(self, query: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value | None) -> Attended:
        """Attention of heads [B, H, T, d] over [B, H, S, d]."""
        g = self.g
        scores = g.matmul(g.mul(query, g.constant(self.tower.scale)), g.transpose(keys, 0, 1, 3, 2))
        attention = g.softmax(scores if mask is None else g.add(scores, mask))
        mixed = self.tower.merge_heads(g.matmul(attention, values))
        return Attended(query, keys, values, attention, mixed)

    def of_patches(self, stacked: ir.Value, layer: int) -> ir.Value:
        """One layer's keys or values [B, H, N, d] of those of all [B, L, N, D]."""
        flat = self.g.reshape(self.g.slice(stacked, 1, layer, layer + 1), -1, self.shape.width)
        return self.heads(flat, self.shape.patches)

    # -- passes ------------------------------------------------------------------------------------------------

    def memory(self, features: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Patch features [B, N, F] -> keys and values of every layer's cross-attention [B, L, N, D]."""
        g, shape = self.g, self.shape
        read = self.linear(g.reshape(features, -1, shape.features), "read")
        placed = g.add(g.reshape(read, -1, shape.patches, shape.width), self.weight("places"))
        seen = self.norm(g.reshape(placed, -1, shape.width), "norm_memory").value
        stacks = []
        for part in ("cross_key", "cross_value"):
            layers = [self.linear(seen, f"blocks.{layer}.{part}") for layer in range(shape.layers)]
            stacks.append(g.concat([g.reshape(x, -1, 1, shape.patches, shape.width) for x in layers], 1))
        return stacks[0], stacks[1]

    def layers(self, tokens: ir.Value, keys: ir.Value, values: ir.Value, length: ir.Value) -> list[Layer]:
        """All layers, for ids [B, T] and the patches' keys and values [B, L, N, D]."""
        g = self.g
        positions = g.op("Slice", self.weight("positions"), g.integers(0), length, g.integers(0))
        embedded = g.op("Gather", self.matrix("words"), tokens, axis=0)
        x = g.reshape(g.add(embedded, positions), -1, self.shape.width)
        kept = []
        for number in range(self.shape.layers):
            patches = self.of_patches(keys, number), self.of_patches(values, number)
            kept.append(self._layer(x, f"blocks.{number}", patches, length))
            x = kept[-1].out
        return kept

    def _layer(self, x: ir.Value, name: str, patches: tuple[ir.Value, ir.Value], length: ir.Value) -> Layer:
        g, mask = self.g, self.tower.causal_mask(length)
        norm_self = self.norm(x, f"{name}.norm_self")
        query, keys, values = (
            self.heads(self.linear(norm_self.value, f"{name}.self_{part}"), length)
            for part in ("query", "key", "value")
        )
        own = self.attend(query, keys, values, mask)
        x = g.add(x, self.linear(own.mixed, f"{name}.self_out"))
        norm_cross = self.norm(x, f"{name}.norm_cross")
        query = self.linear(norm_cross.value, f"{name}.cross_query")
        cross = self.attend(self.heads(query, length), *patches, None)
        x = g.add(x, self.linear(cross.mixed, f"{name}.cross_out"))
        norm_mlp = self.norm(x, f"{name}.norm_mlp")
        act = self.tower.activation_kept(self.linear(norm_mlp.value, f"{name}.expand"))
        out = g.add(x, self.linear(act.value, f"{name}.project"))
        return Layer(norm_self, own, norm_cross, query, cross, norm_mlp, act, out)
