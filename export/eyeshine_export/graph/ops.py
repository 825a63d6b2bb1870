"""A graph under construction: operators in, named values out.

Only what the towers need, over ``onnx_ir``'s tape. Weights are named initialisers that keep PyTorch's [out, in]
layout: the forward pass multiplies by the transpose (Gemm, transB) and the VJP by the matrix itself, so that both
directions share one tensor on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from eyeshine.errors import OptionError
from eyeshine.manifest import Precision

__all__ = ["OPSET", "OPSETS", "PLAIN", "Array", "Dim", "Form", "Graph"]

OPSETS: Final = {20: 9, 23: 11}
"""Operator set -> version of the file format that came with it: 23 is the first with a fused ``Attention`` operator,
20 the last that TensorRT 10.0 reads (JetPack 6 has 10.3)."""
OPSET: Final = 23

Dim = int | str
Array = NDArray[np.floating[Any]]
"""float32, or float64 in tests."""


@dataclass(frozen=True)
class Form:
    """How a graph is written down.

    Attributes:
        opset: ONNX operator set, a key of ``OPSETS``.
        precision: of the products over all tokens, see ``trunk``.
        dtype: float type of all weights and constants; float64 is for tests against a float64 oracle.
        any_size: whether an image may have any sides that are multiples of the patch; positions are then resampled.
    """

    opset: int = OPSET
    precision: Precision = "fp32"
    dtype: type[np.floating] = np.float32
    any_size: bool = False

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise OptionError("operator set of the graphs", got=self.opset, allowed=", ".join(map(str, OPSETS)))
        if self.precision not in get_args(Precision):
            raise OptionError("precision of the graphs", got=self.precision, allowed=", ".join(get_args(Precision)))


PLAIN: Final = Form()


class Graph:
    """Appends operators and keeps the initialisers they use.

    Args:
        form: operator set and float type.
    """

    def __init__(self, form: Form = PLAIN) -> None:
        self.form = form
        self.dtype = np.dtype(form.dtype)
        self.tape = Tape()
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self._initialisers: dict[str, ir.Value] = {}
        self._made: dict[str, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    # -- values that come from outside -------------------------------------------------------------------------

    def input(self, name: str, dims: Sequence[Dim], dtype: ir.DataType | None = None) -> ir.Value:
        """Declare an input; string dimensions are dynamic."""
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype or self._ir_dtype()))
        self.inputs.append(value)
        return value

    def output(self, name: str, value: ir.Value, dims: Sequence[Dim]) -> None:
        """Declare ``value`` as the output ``name``; a value that is an output already gets an Identity."""
        taken = value.producer() is None or any(value is out for out in self.outputs)
        out = self.op("Identity", value) if taken else value
        out.name = name
        out.shape = ir.Shape(dims)
        out.type = ir.TensorType(self._ir_dtype())
        self.outputs.append(out)

    def weight(self, name: str, array: Array) -> ir.Value:
        """Return the weight ``name`` as a value of the graph's float type, whatever it is stored in."""
        stored = self.stored(name, array)
        half = stored.dtype == ir.DataType.FLOAT16
        return self.once(name, lambda: self.cast(stored, ir.DataType.FLOAT)) if half else stored

    def stored(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Return the initialiser ``name``, adding it when it is new; in fp16 all but vectors are stored in float16."""
        if name not in self._initialisers:
            floating = np.issubdtype(array.dtype, np.floating)
            half = self.form.precision == "fp16" and array.ndim > 1
            dtype = np.dtype(np.float16) if half else self.dtype
            tensor = ir.tensor(np.ascontiguousarray(array, dtype=dtype if floating else array.dtype), name=name)
            self._initialisers[name] = self.tape.initializer(tensor, name=name)
        return self._initialisers[name]

    def once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """Return what ``make`` appended the first time for this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def constant(self, value: float | Sequence[float] | Array) -> ir.Value:
        """Return a float constant; equal constants are one initialiser."""
        return self.fixed(np.asarray(value, dtype=self.dtype))

    def integers(self, *values: int) -> ir.Value:
        """Return a one-dimensional int64 constant."""
        return self.fixed(np.asarray(values, dtype=np.int64))

    def fixed(self, array: NDArray[np.generic]) -> ir.Value:
        """Return a constant of the array's own type; equal constants are one initialiser."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self.tape.initializer(ir.tensor(array, name=name), name=name)
        return self._constants[key]

    def scalar(self, value: int) -> ir.Value:
        """Return an int64 constant without axes."""
        return self.fixed(np.asarray(value, dtype=np.int64))

    # -- operators ---------------------------------------------------------------------------------------------

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        """Append one operator with one output."""
        value: ir.Value = self.tape.op(kind, list(inputs), attributes or None)  # type: ignore[arg-type]
        return value

    def ops(self, kind: str, *inputs: ir.Value, outputs: int) -> Sequence[ir.Value]:
        """Append one operator with several outputs."""
        values: Sequence[ir.Value] = self.tape.op_multi_out(kind, list(inputs), num_outputs=outputs)
        return values

    def cast(self, x: ir.Value, to: ir.DataType) -> ir.Value:
        value = self.op("Cast", x, to=to.value)
        value.shape, value.type = x.shape, ir.TensorType(to)
        return value

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Add", a, b)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Sub", a, b)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Mul", a, b)

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Div", a, b)

    def matmul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("MatMul", a, b)

    def transpose(self, x: ir.Value, *perm: int) -> ir.Value:
        return self.op("Transpose", x, perm=list(perm))

    def softmax(self, x: ir.Value) -> ir.Value:
        return self.op("Softmax", x, axis=-1)

    def mean(self, x: ir.Value) -> ir.Value:
        """Mean over the last axis, kept."""
        return self.op("ReduceMean", x, self.integers(-1), keepdims=1)

    def sum(self, x: ir.Value, axis: int, *, keep: bool = False) -> ir.Value:
        return self.op("ReduceSum", x, self.integers(axis), keepdims=int(keep))

    def unsqueeze(self, x: ir.Value, *axes: int) -> ir.Value:
        return self.op("Unsqueeze", x, self.integers(*axes))

    def masked(self, hidden: ir.Value) -> ir.Value:
        """What is added to scores: -inf where ``hidden`` is true, 0 elsewhere."""
        return self.op("Where", hidden, self.constant(float("-inf")), self.constant(0.0))

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=axis)

    def stack(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values of one shape along a new axis."""
        return self.concat([self.unsqueeze(value, axis) for value in values], axis)

    def slice(self, x: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        return self.op("Slice", x, self.integers(start), self.integers(stop), self.integers(axis))

    def first(self, x: ir.Value, axis: int) -> ir.Value:
        """The first entry along an axis (the class token along the token axis), axis dropped."""
        return self.op("Squeeze", self.slice(x, axis, 0, 1), self.integers(axis))

    def shape(self, x: ir.Value, axis: int) -> ir.Value:
        """Length of one axis as a one-element int64 tensor."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def reshape(self, x: ir.Value, *dims: int | ir.Value) -> ir.Value:
        """Reshape; a dimension is a number (-1 once) or a one-element int64 tensor."""
        if all(isinstance(dim, int) for dim in dims):
            return self.op("Reshape", x, self.integers(*[dim for dim in dims if isinstance(dim, int)]))
        parts = [self.integers(dim) if isinstance(dim, int) else dim for dim in dims]
        return self.op("Reshape", x, self.concat(parts, 0))

    def linear(self, x: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
        """x [M, in] -> x Wᵀ + b [M, out], one Gemm."""
        return self.op("Gemm", x, weight, bias, transB=1)

    def linear_vjp(self, g: ir.Value, weight: ir.Value, plus: ir.Value | None = None) -> ir.Value:
        """g [M, out] -> g W (+ plus) [M, in], one Gemm."""
        return self.op("Gemm", g, weight) if plus is None else self.op("Gemm", g, weight, plus)

    def layer_norm(self, x: ir.Value, scale: ir.Value, bias: ir.Value, eps: float) -> ir.Value:
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    # -- the finished graph ------------------------------------------------------------------------------------

    def model(self, name: str, doc: str) -> ir.Model:
        """Return the model with all operators, ready to be written."""
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": self.form.opset},
            name=name,
            doc_string=doc,
        )
        return ir.Model(graph, ir_version=OPSETS[self.form.opset], producer_name="eyeshine")

    def _ir_dtype(self) -> ir.DataType:
        return ir.DataType.from_numpy(self.dtype)
