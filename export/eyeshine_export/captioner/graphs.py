"""The captioner's three graphs: ``memory``, ``decode`` and ``explain``.

``explain`` holds the gradient of the response's log-likelihood in closed form. After the last cross-attention all is
token-wise: there the gradient is T rows through one Gemm per layer, and row t belongs to the word after t alone. Each
layer below adds the VJP of an attention over the T words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from eyeshine_export.captioner.forward import Attended, Decoder, Layer
from eyeshine_export.captioner.model import Shape
from eyeshine_export.graph.forward import Normed
from eyeshine_export.graph.ops import PLAIN, Array, Form, Graph
from eyeshine_export.graph.vjp import Vjp

__all__ = ["decode_graph", "explain_graph", "memory_graph"]

_END = 2**31  # a slice's open end


def memory_graph(shape: Shape, state: dict[str, Array], form: Form = PLAIN) -> ir.Model:
    """Patch features -> keys and values of every layer's cross-attention."""
    g = Graph(form)
    features = g.input("features", ["B", shape.patches, shape.features])
    keys, values = Decoder(g, shape, state).memory(features)
    g.output("keys", keys, _patch_dims(shape))
    g.output("values", values, _patch_dims(shape))
    return _finish(g, "memory", "patch features to keys and values of the decoder's cross-attentions")


def decode_graph(shape: Shape, state: dict[str, Array], form: Form = PLAIN) -> ir.Model:
    """Ids, keys and values -> log-probabilities of every next word, at every place."""
    g = Graph(form)
    decoder = Decoder(g, shape, state)
    tokens, keys, values = _inputs(g, shape)
    length = g.shape(tokens, 1)
    final = decoder.norm(decoder.layers(tokens, keys, values, length)[-1].out, "norm_final")
    logits = g.reshape(decoder.linear(final.value, "head"), -1, length, shape.words)
    g.output("log_probabilities", g.op("LogSoftmax", logits, axis=-1), ["B", "T", shape.words])
    return _finish(g, "decode", "words so far to log-probabilities of the next word")


def explain_graph(shape: Shape, state: dict[str, Array], form: Form = PLAIN) -> ir.Model:
    """Ids, response mask, keys and values -> log-probabilities, and attentions and gradients of every layer.

    ``response`` [B, T] weighs the words whose log-probabilities are summed up; the gradient is of that sum. Outputs
    along L ascend from the first layer to the last.
    """
    g = Graph(form)
    decoder = Decoder(g, shape, state)
    tokens, keys, values = _inputs(g, shape)
    response = g.input("response", ["B", "T"])
    length = g.shape(tokens, 1)
    layers = decoder.layers(tokens, keys, values, length)
    final = decoder.norm(layers[-1].out, "norm_final")
    logits = decoder.linear(final.value, "head")
    likelihood = _Likelihood.of(g, shape, tokens, logits, length)
    g.output("log_probabilities", likelihood.given, ["B", "T"])
    backward = _Backward(decoder, length)
    found = backward.layers(layers, backward.head(likelihood, response, final))
    stacks: tuple[tuple[str, list[ir.Value], list[int | str]], ...] = (
        ("cross_query", [backward.tokens(x.cross_query) for x in layers], ["T", shape.width]),
        ("cross_attention", [x.cross.attention for x in layers], [shape.heads, "T", shape.patches]),
        ("cross_gradient", [backward.tokens(x.cross) for x in found], ["T", shape.width]),
        ("self_attention", [x.own.attention for x in layers], [shape.heads, "T", "T"]),
        ("self_gradient", [x.own for x in found], [shape.heads, "T", "T"]),
    )
    for name, parts, dims in stacks:
        g.output(name, g.concat([g.unsqueeze(x, 1) for x in parts], 1), ["B", shape.layers, *dims])
    return _finish(g, "explain", "words and response to log-probabilities, attentions and their gradients")


def _inputs(g: Graph, shape: Shape) -> tuple[ir.Value, ir.Value, ir.Value]:
    tokens = g.input("tokens", ["B", "T"], ir.DataType.INT64)
    return tokens, g.input("keys", _patch_dims(shape)), g.input("values", _patch_dims(shape))


def _patch_dims(shape: Shape) -> list[int | str]:
    return ["B", shape.layers, shape.patches, shape.width]


def _finish(g: Graph, name: str, doc: str) -> ir.Model:
    model = g.model(f"eyeshine.captioner.{name}", doc)
    RemoveUnusedNodesPass()(model)
    return model


@dataclass(frozen=True)
class _Likelihood:
    """Log-probabilities of the words that are there.

    Attributes:
        given: of each word after those before it [B, T]; 0 for the first.
        error: [B, T, W], what moves the next word's log-probability: one-hot minus softmax of the logits.
    """

    given: ir.Value
    error: ir.Value

    @classmethod
    def of(cls, g: Graph, shape: Shape, tokens: ir.Value, logits: ir.Value, length: ir.Value) -> _Likelihood:
        logs = g.reshape(g.op("LogSoftmax", logits, axis=-1), -1, length, shape.words)
        following = g.concat([g.slice(tokens, 1, 1, _END), g.slice(tokens, 1, 0, 1)], 1)
        every = g.fixed(np.arange(shape.words))
        chosen = g.cast(g.op("Equal", g.unsqueeze(following, 2), every), ir.DataType.from_numpy(g.dtype))
        of_next = g.sum(g.mul(logs, chosen), 2)
        nothing = g.mul(g.slice(of_next, 1, 0, 1), g.constant(0.0))
        given = g.concat([nothing, g.slice(of_next, 1, 0, -1)], 1)
        return cls(given, g.sub(chosen, g.op("Exp", logs)))


@dataclass(frozen=True)
class _Gradients:
    """Of one layer: ``cross`` = with respect to the cross-attention's output, flat; ``own`` = to self-attention."""

    cross: ir.Value
    own: ir.Value


class _Backward:
    """Appends the VJP of the decoder; cotangents are flat [B*T, D]."""

    def __init__(self, decoder: Decoder, length: ir.Value) -> None:
        self.decoder, self.g, self.length = decoder, decoder.g, length
        one = self.g.integers(1)
        self._vjp = Vjp(decoder.tower, one, one)

    def tokens(self, flat: ir.Value) -> ir.Value:
        """[B*T, D] -> [B, T, D]."""
        return self.decoder.tower.tokens3d(flat, self.length)

    def linear(self, cotangent: ir.Value, name: str) -> ir.Value:
        return self.g.linear_vjp(cotangent, self.decoder.matrix(name))

    def norm(self, cotangent: ir.Value, normed: Normed) -> ir.Value:
        return self._vjp.norm(cotangent, normed)

    def head(self, likelihood: _Likelihood, response: ir.Value, final: Normed) -> ir.Value:
        """Of the summed log-probabilities, with respect to the last layer's output."""
        g = self.g
        weights = g.slice(response, 1, 1, _END)
        weights = g.concat([weights, g.mul(g.slice(response, 1, 0, 1), g.constant(0.0))], 1)
        error = g.mul(likelihood.error, g.unsqueeze(weights, 2))
        return self.norm(self.linear(g.reshape(error, -1, self.decoder.shape.words), "head"), final)

    def layers(self, layers: list[Layer], cotangent: ir.Value) -> list[_Gradients]:
        """Of every layer, from the cotangent of the last one's output."""
        found = []
        for number in reversed(range(len(layers))):
            gradients, cotangent = self._layer(layers[number], f"blocks.{number}", cotangent)
            found.append(gradients)
        return found[::-1]

    def _layer(self, layer: Layer, name: str, cotangent: ir.Value) -> tuple[_Gradients, ir.Value]:
        g = self.g
        hidden = g.mul(self.linear(cotangent, f"{name}.project"), layer.act.slope)
        cotangent = g.add(cotangent, self.norm(self.linear(hidden, f"{name}.expand"), layer.norm_mlp))
        cross = self.linear(cotangent, f"{name}.cross_out")
        scores, _ = self._scores(layer.cross, cross)
        query = self.linear(self._merged(g.matmul(scores, layer.cross.keys)), f"{name}.cross_query")
        cotangent = g.add(cotangent, self.norm(query, layer.norm_cross))
        mixed = self.linear(cotangent, f"{name}.self_out")
        scores, own = self._scores(layer.own, mixed)
        inner = self._own(layer.own, name, scores, mixed)
        return _Gradients(cross, own), g.add(cotangent, self.norm(inner, layer.norm_self))

    def _scores(self, attended: Attended, cotangent: ir.Value) -> tuple[ir.Value, ir.Value]:
        """With respect to the scores before scaling, and to the attention itself [B, H, T, S]."""
        g = self.g
        towards = g.matmul(self._split(cotangent), g.transpose(attended.values, 0, 1, 3, 2))
        weighted = g.mul(attended.attention, towards)
        scores = g.sub(weighted, g.mul(attended.attention, g.sum(weighted, 3, keep=True)))
        return g.mul(scores, g.constant(self.decoder.tower.scale)), towards

    def _own(self, own: Attended, name: str, scores: ir.Value, mixed: ir.Value) -> ir.Value:
        """With respect to the normed input of the self-attention, through query, key and value."""
        g = self.g
        turned = g.transpose(scores, 0, 1, 3, 2)
        by_value = g.matmul(g.transpose(own.attention, 0, 1, 3, 2), self._split(mixed))
        parts = {"query": g.matmul(scores, own.keys), "key": g.matmul(turned, own.query), "value": by_value}
        total: ir.Value | None = None
        for part, cotangent in parts.items():
            weight = self.decoder.matrix(f"{name}.self_{part}")
            total = g.linear_vjp(self._merged(cotangent), weight, total)
        assert total is not None
        return total

    def _split(self, flat: ir.Value) -> ir.Value:
        return self.decoder.heads(flat, self.length)

    def _merged(self, heads: ir.Value) -> ir.Value:
        return self.decoder.tower.merge_heads(heads)
