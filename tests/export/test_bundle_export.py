"""What ``export_bundle`` writes: the manifest tells the truth, the graphs share one weights file, bytes repeat."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from eyeshine.bundle import Bundle, sha256_of
from eyeshine.errors import OptionError
from eyeshine.manifest import Manifest
from eyeshine.preprocess import Preprocess
from eyeshine.signals import SIGNALS
from eyeshine_export.graph.ops import OPSET
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.source import OPENAI_MEAN, OPENAI_STD, Source
from eyeshine_export.tokenizer import clip_tokenizer_json, clip_tokenizer_settings
from eyeshine_export.write import ExportOptions, add_file, export_bundle
from oracle import relative
from tiny import VOCABULARY, arrays, tiny_config, tiny_model, tiny_source, word_tokens

GRAPHS = {"encode": 0, "image": 1, "deep": 3, "text": 0}


@pytest.fixture(scope="module")
def manifest(tiny_bundle):
    return Manifest.read(tiny_bundle)


def session_of(folder, name):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])


def test_the_manifest_says_what_the_model_is(manifest):
    source = tiny_source()
    model = manifest.model
    assert (manifest.name, manifest.schema, manifest.grid) == ("tiny", 1, (4, 4))
    assert (manifest.opset, manifest.precision) == (OPSET, "fp32")
    assert (model.name, model.source, model.licence) == ("tiny", "random weights", "CC0-1.0")
    assert (model.layers, model.width, model.heads, model.embed_dim) == (4, 32, 2, 24)
    assert (model.image_size, model.patch_size, model.activation) == ((32, 32), (8, 8), "gelu")
    assert (model.mean, model.std) == (OPENAI_MEAN, OPENAI_STD)
    assert (model.logit_scale, model.logit_bias) == (pytest.approx(math.exp(source.state["logit_scale"])), None)
    assert Preprocess.from_manifest(manifest.preprocess) == source.preprocess
    assert manifest.exporter["torch"].startswith("2.")
    tokens = manifest.tokenizer
    last = len(VOCABULARY) - 1
    assert (tokens.start, tokens.end, tokens.pad, tokens.unknown, tokens.clean) == (last - 1, last, 0, 1, "lower")
    assert (tokens.context_length, tokens.file) == (12, "tokenizer.json")


def test_every_file_is_listed_with_its_hash(tiny_bundle, manifest):
    others = {path.name for path in tiny_bundle.iterdir()} - {"manifest.json"}
    files = {"weights.bin", "golden.npz", "heads.npy", "tokenizer.json"}
    assert set(manifest.files) == others == files | {f"{name}.onnx" for name in manifest.graphs}
    assert set(GRAPHS) < set(manifest.graphs)
    for name, info in manifest.files.items():
        assert (info.bytes, info.sha256) == ((tiny_bundle / name).stat().st_size, sha256_of(tiny_bundle / name))
    Bundle.open(tiny_bundle)
    json.loads((tiny_bundle / "manifest.json").read_text("utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize(("name", "count"), GRAPHS.items())
def test_declared_signals_are_the_ones_that_come_out(tiny_bundle, manifest, name, count):
    graph, session = manifest.graphs[name], session_of(tiny_bundle, name)
    sizes = {"B": 2, "P": 5, "L": 9, "K": count, "D": 32, "E": 24, "H": 2, "N": 16, "T": 17, "Y": 32, "X": 32, "3": 3}
    shaped = lambda info: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in info.dims)
    assert list(graph.inputs) == [value.name for value in session.get_inputs()]
    inputs = {key: np.ones(shaped(info), SIGNALS[key].dtype) for key, info in graph.inputs.items()}
    outputs = dict(zip(graph.outputs, session.run(list(graph.outputs), inputs), strict=True))
    assert list(graph.outputs) == [value.name for value in session.get_outputs()]
    for key, info in graph.outputs.items():
        assert outputs[key].shape == shaped(info) == tuple(sizes[dim] for dim in SIGNALS[key].dims)
        assert info.blocks == (tuple(range(4 - count, 4)) if "K" in SIGNALS[key].dims else None)
    assert set(manifest.parity[name]) == set(graph.outputs)
    assert 0 < max(manifest.parity[name].values()) <= 1e-4


def test_the_cheapest_graph_is_never_deep_by_default(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    assert bundle.cheapest(frozenset({"embedding"})) == "encode"
    assert bundle.cheapest(frozenset({"embedding", "gradient"})) == "image"
    assert bundle.cheapest(frozenset({"gradient"}), blocks=2) == "deep"


def test_written_graphs_reproduce_the_golden_values(tiny_bundle, manifest):
    golden = Bundle.open(tiny_bundle).golden()
    seen = set()
    for name in manifest.graphs:
        session = session_of(tiny_bundle, name)
        outputs = [value.name for value in session.get_outputs() if f"{name}/{value.name}" in golden]
        inputs = {value.name: golden[f"in/{value.name}"] for value in session.get_inputs()}
        for output, value in zip(outputs, session.run(outputs, inputs), strict=True):
            assert relative(value, golden[f"{name}/{output}"]) <= 1e-4
            seen.add(f"{name}/{output}")
    assert seen == {key for key in golden if not key.startswith("in/")}
    assert {"text/text_embedding", "encode/embedding", "image/keys", "image/gradient", "deep/gradient"} <= seen


def test_one_weights_file_holds_every_weight_once(tiny_bundle, manifest):
    places, inline = {}, 0
    for name in manifest.graphs:
        model = onnx.load(tiny_bundle / f"{name}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if not entries:
                inline += len(tensor.raw_data)
                continue
            assert entries["location"] == "weights.bin"
            place = int(entries["offset"]), int(entries["length"])
            assert places.setdefault(tensor.name, place) == place
            assert place[0] % 4096 == 0
    weights = (tiny_bundle / "weights.bin").read_bytes()
    ordered = sorted(places.values())
    assert all(a + length <= b for (a, length), (b, _) in itertools.pairwise(ordered))
    assert ordered[-1][0] + ordered[-1][1] == len(weights)
    assert len({weights[start : start + length] for start, length in ordered}) == len(ordered)
    stored = sum(length for _, length in ordered)
    parameters = sum(array.nbytes for array in arrays(tiny_source(), np.float32).values())
    assert 0.8 * parameters < stored <= parameters
    assert inline < len(manifest.graphs) * 25_000


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_valid_onnx_of_one_operator_set(tiny_bundle, name):
    path = tiny_bundle / f"{name}.onnx"
    onnx.checker.check_model(path)
    model = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert {node.domain for node in model.graph.node} == {""}
    assert model.functions == []


def test_attention_is_fused_outside_the_explained_blocks(tiny_bundle):
    """The lowest of several explained blocks is fused as well; the last block computes one row."""
    graph = lambda name: onnx.load(tiny_bundle / f"{name}.onnx", load_external_data=False).graph
    count = lambda name: sum(node.op_type == "Attention" for node in graph(name).node)
    assert {name: count(name) for name in GRAPHS} == {"encode": 3, "image": 3, "deep": 2, "text": 1}


def test_the_same_model_gives_the_same_bytes_in_another_process(tiny_bundle, tmp_path):
    code = "import sys, pathlib, tiny; tiny.export_tiny(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "tiny")], check=True, env=environment)
    for path in tiny_bundle.iterdir():
        assert path.read_bytes() == (tmp_path / "tiny" / path.name).read_bytes(), path.name


def test_without_layers_there_is_no_deep_graph(tmp_path):
    found = export_bundle(tiny_source(), tmp_path / "plain", ExportOptions(name="another name"))
    assert (set(found.graphs), found.name) == ({"encode", "image", "text"}, "another name")
    assert Manifest.read(tmp_path / "plain") == found
    assert not (tmp_path / "plain" / "deep.onnx").exists()


def test_another_operator_set_gives_the_same_bundle(tiny_bundle, manifest, tmp_path):
    folder = tmp_path / "older"
    found = export_bundle(tiny_source(), folder, ExportOptions(layers=3, opset=20, signals=manifest.groups))
    assert found.opset == onnx.load(folder / "deep.onnx", load_external_data=False).opset_import[0].version == 20
    assert (folder / "weights.bin").read_bytes() == (tiny_bundle / "weights.bin").read_bytes()
    assert {name: graph.outputs for name, graph in found.graphs.items()} == {
        name: graph.outputs for name, graph in manifest.graphs.items()
    }
    assert all(error <= 1e-4 for outputs in found.parity.values() for error in outputs.values())
    for name in GRAPHS:
        onnx.checker.check_model(folder / f"{name}.onnx")


@pytest.mark.parametrize("layers", [-1, 0, 1, 5])
def test_numbers_of_layers_that_make_no_deep_graph_are_refused(tmp_path, layers):
    with pytest.raises(OptionError, match=r"layers|blocks"):
        export_bundle(tiny_source(), tmp_path / "out", ExportOptions(layers=layers))
    assert list(tmp_path.iterdir()) == []


def test_clips_own_tokenizer_and_a_logit_bias(tmp_path):
    raw = tiny_config({"layers": 1}, {"vocab_size": 49408, "width": 8, "layers": 1}, init_logit_bias=-10.0)
    state = {name: value.detach() for name, value in tiny_model(raw).state_dict().items()}
    source = Source(parse_config("clip", raw), state, "random weights")
    found = export_bundle(source, tmp_path / "clip")
    assert (tmp_path / "clip" / "tokenizer.json").read_text("utf-8") == clip_tokenizer_json()
    settings = clip_tokenizer_settings(12)
    assert {key: getattr(found.tokenizer, key) for key in settings} == settings
    assert (found.tokenizer.start, found.tokenizer.end) == (49406, 49407)
    assert found.model.logit_bias == pytest.approx(float(state["logit_bias"]))


def test_a_file_added_later_is_part_of_the_bundle(tmp_path):
    folder = tmp_path / "tiny"
    export_bundle(tiny_source(), folder)
    add_file(folder, "MODEL_CARD.md", "# Größe\n")
    assert Bundle.open(folder).manifest.files["MODEL_CARD.md"].bytes == len("# Größe\n".encode())
    assert Path(folder / "MODEL_CARD.md").read_text("utf-8") == "# Größe\n"
    assert word_tokens().json == (folder / "tokenizer.json").read_text("utf-8")
