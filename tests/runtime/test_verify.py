"""The numeric gate and its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eyeshine import Bundle
from eyeshine.bundle import sha256_of
from eyeshine.cli import main
from eyeshine.errors import BundleError
from eyeshine.verify import TOLERANCES, output_error, verify


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture
def broken(tiny_bundle, tmp_path) -> Path:
    """A bundle of which one golden value is one per mille off, hashes forged to fit."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "broken"))
    with np.load(folder / "golden.npz") as archive:
        values = {key: archive[key].copy() for key in archive.files}
    values["image/gradient"] *= 1.001
    np.savez(folder / "golden.npz", allow_pickle=False, **values)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    golden = folder / "golden.npz"
    manifest["files"]["golden.npz"] = {"bytes": golden.stat().st_size, "sha256": sha256_of(golden)}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_every_graph_and_output_is_checked(tiny_bundle):
    result = verify(Bundle.open(tiny_bundle))
    assert result.passed
    assert {check.graph for check in result.checks} == {"encode", "image", "text", "deep"}
    assert {"gradient", "keys", "values", "class_attention", "class_query", "similarity", "embedding"} <= {
        check.output for check in result.checks if check.graph == "image"
    }
    assert all(0 <= check.error <= check.tolerance == TOLERANCES["fp32"] for check in result.checks)


def test_one_wrong_output_fails_and_is_named(broken, capsys):
    result = verify(Bundle.open(broken))
    assert not result.passed
    wrong = [(check.graph, check.output) for check in result.checks if not check.passed]
    assert wrong == [("image", "gradient")]
    assert run("verify", broken) == 1
    assert "WRONG image.gradient" in capsys.readouterr().out


def test_the_error_is_relative_but_for_a_cosine():
    got, wanted = np.array([1.0, 2.0]), np.array([1.0, 2.5])
    assert output_error("keys", got, wanted) == pytest.approx(0.2)
    assert output_error("similarity", np.array([2e-5]), np.array([1e-5])) == pytest.approx(1e-5)
    assert output_error("keys", np.array([np.nan, 1]), wanted) == float("inf")
    assert output_error("keys", np.ones(3), wanted) == float("inf")


def test_a_precision_without_a_tolerance_is_refused(broken):
    manifest = json.loads((broken / "manifest.json").read_text("utf-8"))
    manifest["precision"] = "int3"
    (broken / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match="no tolerance"):
        verify(Bundle.open(broken))


def test_the_command_prints_json_and_exits_by_the_result(tiny_bundle, capsys):
    assert run("verify", tiny_bundle, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] is True
    assert record["engine"]["provider"] == "CPUExecutionProvider"


def test_the_doctor_says_what_runs_and_why_not_the_rest(capsys, monkeypatch):
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert "yes  explain on the CPU" in out
    assert "yes  export: torch" in out
    import eyeshine.cli.verify

    monkeypatch.setattr(eyeshine.cli.verify, "find_spec", lambda name: None)
    assert run("doctor") == 0
    assert "no   export: torch, open_clip" in capsys.readouterr().out
