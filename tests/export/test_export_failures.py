"""An export that fails says why and leaves nothing that loads; what was there before stays."""

import errno
from dataclasses import replace

import numpy as np
import pytest

from eyeshine.bundle import Bundle
from eyeshine.errors import BundleError, ExportError, OutputError
from eyeshine.verify import output_error
from eyeshine_export import parity, write
from eyeshine_export.graph.dense import DenseVjp
from eyeshine_export.graph.forward import Tower
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.parity import tolerance
from eyeshine_export.write import ExportOptions, export_bundle
from tiny import export_tiny, tiny_config, tiny_source

SOURCE = tiny_source(tiny_config(vision={"ls_init_value": 0.1}))
REAL = {"norm": Vjp.norm, "head": Vjp.head, "row_scores": Vjp.row_scores, "row_mix": Tower.row_mix}


def frozen_norm(vjp, cotangent, normed):
    """The usual shortcut: statistics of the norm taken for constants."""
    return vjp.g.mul(vjp.g.mul(cotangent, normed.scale), normed.inverse)


def radial_head(vjp, head, text, similarity):
    """The cosine's denominator taken for a constant."""
    return REAL["head"](vjp, head, text, vjp.g.mul(similarity, vjp.g.constant(0.0)))


def unscaled_scores(vjp, row, block):
    """The softmax's own VJP 0.1 % off."""
    return vjp.g.mul(REAL["row_scores"](vjp, row, block), vjp.g.constant(1.001))


def blurred_mix(tower, attention, values):
    """The forward pass 0.1 % off."""
    return tower.g.mul(REAL["row_mix"](tower, attention, values), tower.g.constant(1.001))


def middle_for_input(down, weights, middle, out, block):
    """The residual path alone, without attention."""
    return middle


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "message"),
    [
        (Vjp, "norm", frozen_norm, r"image\.onnx .* in gradient"),
        (Vjp, "head", radial_head, r"image\.onnx .* in gradient"),
        (Vjp, "row_scores", unscaled_scores, r"deep\.onnx .* in gradient"),
        (DenseVjp, "input", middle_for_input, r"deep\.onnx .* in gradient"),
        (Tower, "row_mix", blurred_mix, r"encode\.onnx .* in embedding"),
    ],
)
def test_a_wrong_graph_is_not_exported(tmp_path, monkeypatch, owner, name, wrong, message):
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(ExportError, match=f"{message}.*relative error.*allowed: 0.0001"):
        export_bundle(SOURCE, tmp_path / "out", ExportOptions(layers=4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, ExportError("parity")])
def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch, stop):
    def interrupt(folder, *_):
        assert {"weights.bin", "image.onnx"} <= {path.name for path in folder.iterdir()}
        with pytest.raises(BundleError):
            Bundle.open(folder)  # what a killed process would leave does not load either
        raise stop

    monkeypatch.setattr(write, "check_graphs", interrupt)
    with pytest.raises(type(stop) if isinstance(stop, Exception) else stop):
        export_bundle(SOURCE, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "write_graphs", full)
    with pytest.raises(OutputError, match="No space left"):
        export_bundle(SOURCE, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_target_below_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        export_bundle(SOURCE, tmp_path / "file" / "out")


def test_a_target_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("x")
    for target in (tmp_path / "notes", tmp_path / "notes" / "diary.txt"):
        with pytest.raises(OutputError, match=r"not a bundle.*another folder"):
            export_bundle(SOURCE, target, ExportOptions(force=True))
    assert (tmp_path / "notes" / "diary.txt").read_text() == "x"


def test_a_bundle_is_replaced_only_by_force_and_only_when_the_new_one_is_whole(tmp_path, monkeypatch):
    out = tmp_path / "deep" / "er" / "out"
    out.mkdir(parents=True)  # an empty folder is as good as none
    export_tiny(out, layers=None)
    before = Bundle.open(out).hash
    with pytest.raises(OutputError, match=r"bundle exists.*--force"):
        export_tiny(out, layers=2)
    with monkeypatch.context() as patched:
        patched.setattr(Vjp, "norm", frozen_norm)
        with pytest.raises(ExportError):
            export_tiny(out, layers=2, force=True)
    assert Bundle.open(out).hash == before
    export_tiny(out, layers=2, force=True)
    assert "deep" in Bundle.open(out).manifest.graphs
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_weights_that_do_not_fit_leave_nothing(tmp_path):
    deeper = tiny_source(tiny_config(vision={"layers": 5}))
    with pytest.raises(ExportError, match="more blocks"):
        export_bundle(replace(SOURCE, state=deeper.state), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_tolerance_is_applied_to_every_kind_of_error(tmp_path):
    expected = np.array([1.0, -4.0])
    assert output_error("keys", expected, expected) == 0
    assert output_error("keys", np.array([1.0, -4.02]), expected) == pytest.approx(0.005)
    for wrong in (np.array([1.0, np.nan]), np.array([np.inf, -4.0]), np.array([1.0]), expected[None]):
        assert output_error("keys", wrong, expected) == np.inf
    assert output_error("keys", np.array([1e-9]), np.array([0.0])) > tolerance("image", "fp32")


@pytest.mark.parametrize(
    ("graph", "precision", "allowed"),
    [("image", "fp32", 1e-4), ("text", "int8", 1e-4), ("text", "fp16", 1e-2), ("deep", "int8", 0.2)],
)
def test_the_tolerance_is_that_of_the_graphs_precision(graph, precision, allowed):
    worst = {}
    parity._record(worst, graph, "keys", allowed, "B=1", precision)
    assert worst == {graph: {"keys": allowed}}
    for error in (1.01 * allowed, np.nan, np.inf):
        with pytest.raises(ExportError, match=rf"disagrees.*allowed: {allowed:g}; cure"):
            parity._record({}, graph, "keys", error, "B=1", precision)
