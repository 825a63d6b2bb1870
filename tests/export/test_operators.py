"""Graphs stay inside the operators that TensorRT 10 reads.

The table: docs/operators.md of onnx-tensorrt in its editions for TensorRT 8.5 and 10.15, which lists all of them, and
the parser's change log for what came between: LayerNormalization with 8.6, Attention with 10.14. TensorRT 10.15 takes
opsets 9 to 24, of LayerNormalization the first output alone, of Attention 4-D inputs and neither softcap nor
qk_matmul_output_mode; axes of reductions must be initialisers. Nothing is built here: not measured on a GPU.
"""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from eyeshine.errors import OptionError
from eyeshine_export.graph.gates import gates_graph
from eyeshine_export.graph.gradcam import gradcam_graph
from eyeshine_export.graph.legrad import legrad_graph
from eyeshine_export.graph.ops import OPSETS, Form
from eyeshine_export.graph.products import chefer_graph, rollout_graph
from eyeshine_export.graph.towers import encode_graph, explain_graph, text_graph
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.graph.words import words_graph
from tiny import arrays, tiny_config, tiny_source
from towers import TOWERS, tower_source

SINCE = {
    **dict.fromkeys(
        (
            "Add", "ArgMax", "Cast", "Concat", "Div", "Equal", "Erf", "Exp", "Expand", "Gather", "GatherND", "Gemm",
            "Greater", "Identity", "LessOrEqual", "Log", "MatMul", "Max", "Mul", "Range", "Reciprocal", "ReduceL2",
            "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid",
            "Slice", "Softmax", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
        ),
        (8, 5),
    ),
    "LayerNormalization": (8, 6),
    "Gelu": (10, 0),
    "Attention": (10, 14),
}  # fmt: skip
"""Operator -> first version of TensorRT whose parser reads it."""
READS = {20: (10, 0), 23: (10, 14)}
"""Operator set -> version of TensorRT that it is for."""
AXES_INPUT = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1} | dict.fromkeys(
    ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), 1
)
KINDS = {
    "siglip": "siglip, wide image, tanh",
    "siglip text": "siglip",
    "coca": "coca",
    "coca text": "coca",
    "clipa": "clipa",
}
GRAPHS = [
    "encode",
    "image",
    "deep 2",
    "deep 4",
    "text",
    "words",
    "rollout",
    "chefer",
    "legrad",
    "gradcam",
    "gates",
    "any size",
    *KINDS,
]
WRITTEN_OUT = {"eyeshine.rollout", "eyeshine.chefer", "eyeshine.gates"}
"""Graphs that need the attention matrices of every block, or change them."""


def graph_of(name, form, quick_gelu):
    if name in KINDS:
        return graph_of_kind(name, form)
    source = tiny_source(tiny_config(quick_gelu=quick_gelu, text={"layers": 3}))
    config, state = source.config, arrays(source, np.float32)
    if name == "text":
        return text_graph(config, text_weights(state, config.text, config.embed_dim), form)
    if name == "words":
        return words_graph(config, text_weights(state, config.text, config.embed_dim), 2, form)
    normalisation = source.normalisation
    vision = vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    by_group = {"rollout": rollout_graph, "chefer": chefer_graph, "gradcam": gradcam_graph, "gates": gates_graph}
    if name in by_group:
        return by_group[name](config, vision, form)
    if name == "legrad":
        return legrad_graph(config, vision, 2, form)
    if name == "any size":
        return explain_graph(config, vision, 1, replace(form, any_size=True))
    layers = {"image": 1, "deep 2": 2, "deep 4": 4}.get(name)
    return encode_graph(config, vision, form) if layers is None else explain_graph(config, vision, layers, form)


def graph_of_kind(name, form):
    source = tower_source(TOWERS[KINDS[name]])
    config, state, normalisation = source.config, arrays(source, np.float32), source.normalisation
    if name.endswith("text"):
        return text_graph(config, text_weights(state, config.text, config.embed_dim), form)
    vision = vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    return explain_graph(config, vision, 1, form)


@pytest.fixture(scope="module", params=sorted(OPSETS))
def opset(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def activation(request):
    return request.param


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request):
    """int8 is for CPUs: TensorRT reads no integer products, and the runtime refuses such a bundle there."""
    return request.param


@pytest.fixture(scope="module", params=GRAPHS)
def graph(request, opset, precision, activation):
    """A graph as a protocol buffer, with the shape of every tensor that can be inferred."""
    model = ir.to_proto(graph_of(request.param, Form(opset, precision), activation))
    assert (model.opset_import[0].version, model.ir_version) == (opset, OPSETS[opset])
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph


def test_tensorrt_reads_every_operator(graph, opset):
    used = {node.op_type for node in graph.node}
    assert {kind for kind in used if SINCE.get(kind, (99,)) > READS[opset]} == set()
    assert {node.domain for node in graph.node} == {""}
    assert ("Attention" in used) == (opset == 23 and graph.name not in WRITTEN_OUT)


def test_no_operator_is_newer_than_the_operator_set(graph, opset):
    for kind in {node.op_type for node in graph.node}:
        assert onnx.defs.get_schema(kind, max_inclusive_version=opset).since_version <= opset


def test_axes_are_initialisers_and_only_first_outputs_are_used(graph):
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        assert len(node.output) == 1
        if node.op_type in AXES_INPUT and len(node.input) > AXES_INPUT[node.op_type]:
            assert node.input[AXES_INPUT[node.op_type]] in known, node
        if node.op_type == "LayerNormalization":
            assert set(node.input[1:]) <= known


def test_every_tensor_has_a_rank_and_none_is_float64(graph, precision):
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    for node in graph.node:
        assert values[node.output[0]].HasField("shape"), node
        assert values[node.output[0]].elem_type != TensorProto.DOUBLE
        if node.op_type == "Attention":
            assert [len(values[name].shape.dim) for name in (*node.input, *node.output)] == [4] * (1 + len(node.input))
            further = {"softmax_precision"} if precision == "fp16" else set()
            assert {entry.name for entry in node.attribute} == {"scale", "is_causal"} | further
    assert all(tensor.data_type != TensorProto.DOUBLE for tensor in graph.initializer)


def test_another_operator_set_is_refused():
    with pytest.raises(OptionError, match=r"operator set.*21.*20, 23"):
        Form(21)
