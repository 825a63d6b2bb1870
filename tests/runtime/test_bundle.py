"""Bundles that are missing, damaged, foreign or malicious: a clear error, and nothing is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eyeshine import Bundle, Explainer
from eyeshine.bundle import sha256_of
from eyeshine.errors import BundleError, EngineError, SignalError


@pytest.fixture
def copy(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def edit(folder: Path, change) -> None:
    """Change the manifest's JSON in place."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text("utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), "utf-8")


def rehash(folder: Path, name: str) -> None:
    """Give a changed file the hash that it has now: what someone who means harm would do."""

    def change(raw):
        raw["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}

    edit(folder, change)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_whole_bundle_opens_and_its_hash_depends_on_its_content(copy, tiny_bundle):
    opened = Bundle.open(copy)
    assert opened.hash == Bundle.open(tiny_bundle).hash
    flip(copy / "tokenizer.json")
    rehash(copy, "tokenizer.json")
    assert Bundle.open(copy).hash != opened.hash


def test_a_folder_that_is_missing_names_the_export_command(tmp_path):
    with pytest.raises(BundleError, match=r"missing.*eyeshine export"):
        Bundle.open(tmp_path / "nowhere")


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"schema": 99}', '{"schema": "1"}', "{}", "\udcff"])
def test_a_manifest_that_is_none_or_of_another_version(copy, content):
    (copy / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match=r"cannot be read|schema version"):
        Bundle.open(copy)


@pytest.mark.parametrize("field", ["model", "graphs", "tokenizer", "files", "grid", "golden", "preprocess"])
def test_a_manifest_without_a_field(copy, field):
    edit(copy, lambda raw: raw.pop(field))
    with pytest.raises(BundleError, match="malformed"):
        Bundle.open(copy)


def test_an_unknown_field_of_a_later_version_is_let_pass(copy):
    edit(copy, lambda raw: raw.update(later="x"))
    assert Bundle.open(copy).name == "tiny"


@pytest.mark.parametrize("name", ["image.onnx", "weights.bin", "tokenizer.json", "golden.npz"])
def test_changed_bytes_are_found_by_their_hash(copy, name):
    flip(copy / name)
    with pytest.raises(BundleError, match=rf"SHA-256.*{name}"):
        Bundle.open(copy)
    Bundle.open(copy, verify=False)


def test_another_size_is_found_even_without_hashing(copy):
    with (copy / "weights.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="size differs"):
        Bundle.open(copy, verify=False)


def test_a_file_that_is_gone(copy):
    (copy / "text.onnx").unlink()
    with pytest.raises(BundleError, match=r"missing.*text\.onnx"):
        Bundle.open(copy)


@pytest.mark.parametrize("path", ["../secret.onnx", "/etc/passwd", "a/../../b", "..\\b", ""])
def test_a_manifest_path_that_leaves_the_folder(copy, path):
    edit(copy, lambda raw: raw["graphs"]["image"].update(file=path))
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(copy)


def test_a_link_that_leaves_the_folder(copy, tmp_path):
    shutil.move(copy / "weights.bin", tmp_path / "weights.bin")
    (copy / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(BundleError, match="link that leaves"):
        Bundle.open(copy)


def test_a_graph_file_without_a_hash(copy):
    edit(copy, lambda raw: raw["files"].pop("image.onnx"))
    with pytest.raises(BundleError, match="without its hash"):
        Bundle.open(copy)


def test_external_data_outside_the_folder_is_refused_by_the_engine(copy, tmp_path):
    """Even where the manifest was forged to fit: the weights of a graph may not come from elsewhere."""
    shutil.copy(copy / "weights.bin", tmp_path / "other__.bin")
    data = (copy / "encode.onnx").read_bytes()
    assert data.count(b"weights.bin") > 3
    # A protobuf string carries its length, so the replacement has the same one.
    target = b"../other_.b"
    shutil.copy(copy / "weights.bin", tmp_path / "other_.b")
    (copy / "encode.onnx").write_bytes(data.replace(b"weights.bin", target))
    assert len(target) == len(b"weights.bin")
    rehash(copy, "encode.onnx")
    with pytest.raises((EngineError, BundleError), match=r"encode\.onnx"):
        Explainer.load(copy)._session("encode")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda graph: graph["outputs"].pop("gradient"), "outputs.*gradient"),
        (lambda graph: graph["outputs"]["keys"].update(dims=["B", 1, 17, 48]), "outputs.*keys"),
        (lambda graph: graph["inputs"].update(tokens={"dims": ["P", "L"], "blocks": None}), "inputs.*tokens"),
    ],
)
def test_graph_and_manifest_that_disagree(copy, change, said):
    edit(copy, lambda raw: change(raw["graphs"]["image"]))
    with pytest.raises(BundleError, match=rf"disagree about {said}"):
        Explainer.load(copy).warm_up()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(grid=[5, 5]),
        lambda raw: raw.update(grid=[2, 8]),
        lambda raw: raw["preprocess"].update(size=[40, 40]),
        lambda raw: raw.update(preprocess=None),
        lambda raw: raw["preprocess"].update(resize="stretch"),
        lambda raw: raw["tokenizer"].update(context_length="77"),
        lambda raw: raw["tokenizer"].update(pad=None),
        lambda raw: raw["tokenizer"].update(context_length=2),
        lambda raw: raw["tokenizer"].update(clean="dirty"),
        lambda raw: raw["graphs"]["image"]["outputs"]["keys"].update(blocks=[0, 1, 2]),
        lambda raw: raw["graphs"]["image"]["outputs"]["keys"].update(dims=["B", 1, 5, 32]),
        lambda raw: raw["graphs"]["image"]["inputs"]["pixels"].update(dims=["B", 3, 8, 8]),
        lambda raw: raw["files"].pop("weights.bin"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_a_bundle_error(copy, change):
    edit(copy, change)
    with pytest.raises(BundleError):
        Explainer.load(copy)


def test_a_manifest_nested_without_end(copy):
    (copy / "manifest.json").write_text("[" * 100_000, "utf-8")
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(copy)


def test_a_graph_that_is_no_onnx(copy):
    (copy / "image.onnx").write_bytes(b"not a graph")
    rehash(copy, "image.onnx")
    with pytest.raises(EngineError, match=r"refused image\.onnx"):
        Explainer.load(copy).warm_up()


def test_a_tokenizer_that_is_none(copy):
    (copy / "tokenizer.json").write_text("{}", "utf-8")
    rehash(copy, "tokenizer.json")
    with pytest.raises(BundleError, match="tokenizer"):
        Explainer.load(copy)


def test_a_graph_or_signal_that_is_not_there_says_how_to_export_it(copy):
    opened = Bundle.open(copy)
    with pytest.raises(SignalError, match=r"no graph 'fourier'"):
        opened.graph("fourier")
    with pytest.raises(SignalError, match="--layers 4"):
        opened.cheapest(frozenset({"gradient"}), blocks=4)


def test_golden_values_of_one_graph_are_what_it_is_checked_with(copy):
    bundle = Bundle.open(copy)
    everything = bundle.golden()
    for name in bundle.manifest.graphs:
        own, graph = bundle.golden(name), bundle.graph(name)
        assert own.keys() < everything.keys()
        assert {f"in/{key}" for key in graph.inputs} & everything.keys() == {k for k in own if k.startswith("in/")}
        assert {k for k in everything if k.startswith((f"{name}/", "image/"))} == {k for k in own if k[:3] != "in/"}
        assert all(np.array_equal(own[key], everything[key]) for key in own)


def test_golden_values_hold_no_pickle(copy):
    golden = Bundle.open(copy).golden()
    assert golden["in/pixels"].shape[0] == 1
    assert golden["image/gradient"].shape[:2] == (1, 2)
