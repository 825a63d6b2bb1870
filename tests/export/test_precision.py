"""Bundles in fp16 and int8: what is stored in fewer bits, what is computed in float32, and how far the outputs go."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from eyeshine import Bundle, Explainer
from eyeshine.cli import main
from eyeshine.errors import BundleError, ExportError, OptionError
from eyeshine.verify import TOLERANCES, verify
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.trunk import quantise
from eyeshine_export.write import ExportOptions, export_bundle
from tiny import tiny_config, tiny_source

GRAPHS = ("encode", "image", "text", "deep")
FLOAT, HALF, CODES = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
PARTS = ("query", "key", "value", "out", "expand", "project")
MATRICES = {f"visual.{block}.{part}" for block in range(4) for part in PARTS}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Bundles of one model with both activations' kinds of trunk, by precision and operator set."""
    made = {}

    def bundle(precision, opset=23, quick_gelu=False):
        key = (precision, opset, quick_gelu)
        if key not in made:
            source = tiny_source(tiny_config({"ls_init_value": 0.1}, quick_gelu=quick_gelu))
            folder = tmp_path_factory.mktemp("precision") / f"{precision}-{opset}"
            export_bundle(source, folder, ExportOptions(layers=3, opset=opset, precision=precision))
            made[key] = Bundle.open(folder)
        return made[key]

    return bundle


def typed(bundle, name):
    """A graph, and the element type of every tensor in it."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle.folder / f"{name}.onnx"), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return graph, {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
def test_outputs_are_within_the_tolerance_of_autograd_and_no_nearer_than_the_rounding(
    exported, precision, opset, quick_gelu
):
    bundle = exported(precision, opset, quick_gelu)
    assert (bundle.manifest.precision, bundle.manifest.opset) == (precision, opset)
    parity = {name: max(outputs.values()) for name, outputs in bundle.manifest.parity.items()}
    rounded = {"encode", "image", "deep"} | ({"text"} if precision == "fp16" else set())
    least = {"fp16": 1e-4, "int8": 1e-3}[precision]  # a float32 copy of the trunk would be far below that
    assert all(least < parity[name] <= TOLERANCES[precision] for name in rounded)
    assert all(parity[name] <= TOLERANCES["fp32"] for name in parity.keys() - rounded)
    assert verify(bundle).passed
    for name in GRAPHS:
        onnx.checker.check_model(bundle.folder / f"{name}.onnx")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_inputs_and_outputs_stay_as_they_are(exported, precision):
    plain, rounded = exported("fp32").manifest, exported(precision).manifest
    assert rounded.graphs == plain.graphs
    for name in GRAPHS:
        graph, types = typed(exported(precision), name)
        assert {types[value.name] for value in (*graph.input, *graph.output)} <= {FLOAT, TensorProto.INT64}


def test_fp16_stores_every_matrix_once_in_two_bytes(exported):
    bundle, stored = exported("fp16"), {}
    for name in GRAPHS:
        for tensor in typed(bundle, name)[0].initializer:
            if not tensor.name.startswith("constant_"):
                assert tensor.data_type == (HALF if len(tensor.dims) > 1 else FLOAT), tensor.name
                value = numpy_helper.to_array(tensor)
                assert np.array_equal(stored.setdefault(tensor.name, value), value)
    assert {f"{name}.weight" for name in MATRICES} <= stored.keys()
    whole = sum(array.nbytes for array in stored.values() if array.nbytes >= 1024)
    places = {}
    for name in GRAPHS:
        for tensor in onnx.load(bundle.folder / f"{name}.onnx", load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                place = (int(entries["offset"]), int(entries["length"]))
                assert places.setdefault(tensor.name, place) == place
    assert sum(length for _, length in places.values()) == whole


def test_int8_stores_the_matrices_of_whole_blocks_once_in_one_byte(exported):
    bundle = exported("int8")
    below = {name for name in MATRICES if not name.startswith("visual.3.")}
    for name in ("encode", "image", "deep"):
        graph, types = typed(bundle, name)
        stored = {tensor.name: tensor for tensor in graph.initializer}
        assert {f"{matrix}.codes" for matrix in below} <= stored.keys()
        assert not {f"{matrix}.weight" for matrix in below} & stored.keys()
        for matrix in below:
            assert types[f"{matrix}.codes"] == CODES
            assert len(stored[f"{matrix}.scale"].dims) == 1
        assert types["visual.3.key.weight"] == FLOAT
    weights = [tensor for tensor in typed(bundle, "text")[0].initializer if not tensor.name.startswith("constant_")]
    assert {tensor.data_type for tensor in weights} == {FLOAT}


KINDS = {
    "LayerNormalization", "Softmax", "Sqrt", "Reciprocal", "ReduceMean", "ReduceSum", "ReduceL2", "Erf", "Exp", "Where",
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", GRAPHS)
def test_norms_softmax_residuals_and_the_vjp_are_float32(exported, precision, opset, name):
    """The VJP is what depends on the text."""
    graph, types = typed(exported(precision, opset), name)
    dependent = {"text"}
    for node in graph.node:
        if node.op_type in KINDS:
            assert types[node.output[0]] == FLOAT, node
        if node.op_type == "Attention" and precision == "fp16":
            assert {entry.name: entry.i for entry in node.attribute}["softmax_precision"] == FLOAT
        if dependent & set(node.input):
            dependent |= set(node.output)
            assert types[node.output[0]] in (FLOAT, TensorProto.INT64), node
            assert {types[name] for name in node.input if name} <= {FLOAT, TensorProto.INT64}, node
    if name in ("image", "deep"):
        assert {"gradient", "similarity"} <= dependent
        assert len(dependent) > 40


def test_fp16_products_are_float16_and_int8_products_are_integers(exported):
    graph, types = typed(exported("fp16"), "image")
    halves = [node for node in graph.node if node.op_type == "Gemm" and types[node.output[0]] == HALF]
    assert len(halves) == 1 + 3 * len(PARTS) + 2  # patches, three blocks, keys and values of the last
    graph, types = typed(exported("int8"), "image")
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == 3 * len(PARTS)
    assert kinds.count("DynamicQuantizeLinear") == 3 * 4  # query, key and value share one


def test_onnxruntime_fuses_the_integer_products(exported, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    path = exported("int8").folder / "image.onnx"
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node]
    assert "MatMulInteger" not in kinds
    assert kinds.count("MatMulIntegerToFloat") == kinds.count("DynamicQuantizeMatMul") == 3 * 3


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_runtime_explains_with_it_and_the_maps_agree(exported, precision):
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    plain, rounded = (
        Explainer(bundle).explain(photo, ["a red car", "a dog"]) for bundle in (exported("fp32"), exported(precision))
    )
    assert np.abs(rounded.similarities - plain.similarities).max() <= {"fp16": 2e-3, "int8": 5e-2}[precision]
    correlation = np.corrcoef(plain.maps.ravel(), rounded.maps.ravel())[0, 1]
    assert 0.95 < correlation < 1
    assert not np.array_equal(plain.maps, rounded.maps)


def test_codes_and_scales_are_the_nearest_and_never_saturate_sixteen_bits():
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    weight[2] = 0
    codes, scale = quantise(weight)
    assert (codes.dtype, codes.shape, scale.shape) == (np.int8, (7, 5), (5,))
    back = codes.T * scale[:, None]
    assert (np.abs(back - weight) <= scale[:, None] * 0.5000001).all()
    assert (np.abs(codes).max(axis=0) == [64, 64, 0, 64, 64]).all()
    assert 2 * 255 * int(np.abs(codes).max()) < 2**15


def test_the_command_exports_a_precision(tmp_path, capsys):
    from safetensors.torch import save_file

    source = tiny_source()
    raw = tiny_config()
    (tmp_path / "tiny.json").write_text(json.dumps(raw), "utf-8")
    (tmp_path / "tokenizer.json").write_text(source.tokens.json, "utf-8")
    save_file({name: tensor.contiguous() for name, tensor in source.state.items()}, tmp_path / "tiny.safetensors")
    given = ["export", tmp_path / "tiny.json", "--checkpoint", tmp_path / "tiny.safetensors", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in (*given, "--precision", "int8", "--opset", 20)])
    assert not done.value.code, capsys.readouterr()
    manifest = Bundle.open(tmp_path / "out").manifest
    assert (manifest.precision, manifest.opset) == ("int8", 20)
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in (*given, "--force", "--precision", "fp8")])
    assert done.value.code == 2
    assert "fp32, fp16, int8" in capsys.readouterr().err


def test_unknown_precisions_are_refused(exported, tmp_path):
    with pytest.raises(OptionError, match=r"precision.*fp8.*fp32, fp16, int8"):
        Form(precision="fp8")
    with pytest.raises(OptionError, match="precision"):
        ExportOptions(precision="fp8")
    folder = shutil.copytree(exported("int8").folder, tmp_path / "other")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "precision": "fp8"}), "utf-8")
    with pytest.raises(BundleError, match=r"precision.*'fp8'.*fp32, fp16, int8"):
        Bundle.open(folder)


def test_a_model_that_does_not_bear_the_rounding_is_not_exported(tmp_path, monkeypatch):
    """One channel that dwarfs the others leaves no bits for them."""
    source = tiny_source()
    for name, tensor in source.state.items():
        if "resblocks" in name and name.startswith("visual") and name.endswith("ln_2.weight"):
            tensor[3] *= 3e4
    with pytest.raises(ExportError, match=r"disagrees with autograd.*0\.2; cure: this model does not bear"):
        export_bundle(source, tmp_path / "out", ExportOptions(precision="int8"))
    assert list(tmp_path.iterdir()) == []
