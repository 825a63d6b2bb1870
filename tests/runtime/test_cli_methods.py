"""``eyeshine methods``: what is listed is what the registry and a bundle say."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eyeshine.bundle import HEADS, Bundle
from eyeshine.cli import main
from eyeshine.cli.methods import _row
from eyeshine.methods import METHODS, by_passes
from eyeshine.methods.configure import settings_of


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _own_warnings(monkeypatch):
    """The command line shows warnings its own way."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_every_method_is_listed_with_cost_signals_settings_and_reference(tiny_bundle, capsys):
    assert run("methods", "--bundle", tiny_bundle, "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(METHODS)
    bundle = Bundle.open(tiny_bundle)
    for name, method in METHODS.items():
        row = rows[name]
        assert row["cost"] in ("graph", "patches", "passes", "seconds")
        assert row["cost"] in ("passes", "seconds") or not by_passes(method)
        assert (set(row["signals"]), set(row["needs"])) == (method.signals, method.needs)
        assert list(row["settings"]) == list(settings_of(method))
        assert row["reference"] == method.reference != ""
        assert bool(row["graphs"]) != bool(row["cure"])
        assert set(row["graphs"]) <= bundle.manifest.graphs.keys()


def test_what_a_bundle_lacks_comes_with_the_command_that_exports_it(tiny_bundle, capsys):
    """The tiny bundle explains three blocks, MMEL reads four."""
    assert run("methods", "mmel", "grad_eclip", "--bundle", tiny_bundle) == 0
    out = capsys.readouterr().out
    assert "grad_eclip: patches\n  reads gradient, spatial_weights, values\n  runs  image of bundle tiny\n" in out
    assert "\n  set   spatial=True, mode=faithful" in out
    assert "\n  from  Zhao et al." in out
    assert "not in bundle tiny: eyeshine export MODEL --layers 4" in out
    assert "chefer" not in out
    assert run("methods", "attention") == 0
    assert capsys.readouterr().out.startswith("attention: graph, the same map for every text\n")
    assert run("methods", "mmel", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["graphs"] == ["deep"]  # of the embedded bundle


def test_a_method_that_is_not_there_is_named(capsys):
    assert run("methods", "lime") == 2
    assert "unknown method; got 'lime'" in capsys.readouterr().err


def test_a_method_is_not_offered_where_its_heads_cannot_be_scored(tiny_bundle, tmp_path, capsys):
    """A bundle from before head decomposition: three blocks of attention, one block of what heads project by."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))
    np.save(folder / HEADS, np.load(folder / HEADS)[-1:])
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"][HEADS]["bytes"] = (folder / HEADS).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert run("methods", "concept_attribution", "--bundle", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["cure"] is None  # it reads one block
    method = replace(METHODS["head_decomposition"], layers=3)
    for opened, cure in ((tiny_bundle, None), (folder, "eyeshine export MODEL --layers 3 --out FOLDER")):
        row = _row(method, Bundle.open(opened, verify=False))
        assert (row["cure"], bool(row["graphs"])) == (cure, cure is None)
