"""In what precision the products over all tokens of a tower are computed.

LayerNorm, softmax, residuals, the head and the VJP are float32 in every precision, and so are a graph's inputs and
outputs. What is stored in fewer bits is stored once: where float32 is asked for, the graph converts it, and engines do
that when they load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from eyeshine_export.graph.ops import Array, Form, Graph
from eyeshine_export.graph.weights import AttentionWeights, BlockWeights

__all__ = ["HalfTrunk", "Int8Trunk", "Trunk", "as_stored", "explained_trunk", "matrix", "quantise", "whole_trunk"]

LARGEST: Final = 64  # with 127, sums of two products would saturate in the 16 bits of AVX2: docs/decisions/0003-int8.md


class Trunk:
    """float32.

    Args:
        graph: the graph under construction.
    """

    attention: ClassVar[dict[str, Any]] = {}
    """Further attributes of ``Attention``."""

    def __init__(self, graph: Graph) -> None:
        self.g = graph

    def enter(self, x: ir.Value) -> ir.Value:
        """From float32 to what the trunk computes in."""
        return x

    def leave(self, x: ir.Value) -> ir.Value:
        """From what the trunk computes in to float32."""
        return x

    def constant(self, value: float) -> ir.Value:
        return self.g.constant(value)

    def linears(self, x: ir.Value, block: AttentionWeights, *parts: str) -> list[ir.Value]:
        """x [M, in] -> x Wᵀ + b [M, out] for each of a block's linear layers."""
        return [self.g.linear(x, matrix(self.g, block, part), bias(self.g, block, part)) for part in parts]


class HalfTrunk(Trunk):
    """float16, sums inside a product left to the engine; softmax in float32."""

    attention: ClassVar[dict[str, Any]] = {"softmax_precision": ir.DataType.FLOAT.value}

    def enter(self, x: ir.Value) -> ir.Value:
        return self.g.cast(x, ir.DataType.FLOAT16)

    def leave(self, x: ir.Value) -> ir.Value:
        return self.g.cast(x, ir.DataType.FLOAT)

    def constant(self, value: float) -> ir.Value:
        return self.g.fixed(np.asarray(value, np.float16))

    def linears(self, x: ir.Value, block: AttentionWeights, *parts: str) -> list[ir.Value]:
        g = self.g
        weights = [g.stored(f"{block.name}.{part}.weight", getattr(block, part)[0]) for part in parts]
        return [g.linear(x, w, self.enter(bias(g, block, part))) for w, part in zip(weights, parts, strict=True)]


class Int8Trunk(Trunk):
    """Products of integers, everything else float32: activations uint8 with one scale and zero point per tensor, found
    at run time, weights int8 with one scale per output channel.

    Written operator by operator in the order that onnxruntime fuses into MatMulIntegerToFloat.
    """

    def linears(self, x: ir.Value, block: AttentionWeights, *parts: str) -> list[ir.Value]:
        g = self.g
        codes, scale, zero = g.ops("DynamicQuantizeLinear", x, outputs=3)
        results = []
        for part in parts:
            weight, weight_scale = quantised(g, block, part)
            sums = g.cast(g.op("MatMulInteger", codes, weight, zero), ir.DataType.FLOAT)
            results.append(g.add(g.mul(sums, g.mul(scale, weight_scale)), bias(g, block, part)))
        return results


def whole_trunk(graph: Graph) -> Trunk:
    """What the blocks below the explained ones are computed with."""
    return {"fp32": Trunk, "fp16": HalfTrunk, "int8": Int8Trunk}[graph.form.precision](graph)


def explained_trunk(graph: Graph) -> Trunk:
    """What products over all tokens of explained blocks are computed with; int8 would show in the signals."""
    return HalfTrunk(graph) if graph.form.precision == "fp16" else Trunk(graph)


def as_stored(blocks: Sequence[BlockWeights], form: Form, *, but: int = 1) -> tuple[BlockWeights, ...]:
    """A tower's blocks, marked where a graph of this form keeps them in 8 bits: all but the last ``but``."""
    kept = len(blocks) - but
    return (*(replace(block, int8=form.precision == "int8") for block in blocks[:kept]), *blocks[kept:])


def matrix(g: Graph, block: AttentionWeights, part: str) -> ir.Value:
    """A block's matrix [out, in] in float32, however it is stored."""
    if not block.int8:
        return g.weight(f"{block.name}.{part}.weight", getattr(block, part)[0])
    codes, scale = quantised(g, block, part)
    return g.once(f"{block.name}.{part}", lambda: g.transpose(g.mul(g.cast(codes, ir.DataType.FLOAT), scale), 1, 0))


def bias(g: Graph, block: AttentionWeights, part: str) -> ir.Value:
    return g.weight(f"{block.name}.{part}.bias", getattr(block, part)[1])


def quantised(g: Graph, block: AttentionWeights, part: str) -> tuple[ir.Value, ir.Value]:
    """A block's matrix as int8 [in, out], as MatMulInteger takes it, and its scales [out]."""
    codes, scale = quantise(getattr(block, part)[0])
    name = f"{block.name}.{part}"
    return g.stored(f"{name}.codes", codes), g.stored(f"{name}.scale", scale)


def quantise(weight: Array) -> tuple[np.ndarray[Any, np.dtype[np.int8]], Array]:
    """weight [out, in] -> int8 [in, out] and scales [out]: symmetric, -64..64, rounded to the nearest."""
    scale = np.maximum(np.abs(weight).max(axis=1) / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    codes = np.clip(np.rint(weight / scale[:, None]), -LARGEST, LARGEST).astype(np.int8)
    return np.ascontiguousarray(codes.T), scale
