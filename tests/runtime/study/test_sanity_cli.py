"""``eyeshine sanity`` on the tiny bundle."""

from __future__ import annotations

import json
import warnings

import pytest

from eyeshine.cli import main

DATA = ("--dataset", "roads", "--scenes", "1", "--threads", "1")


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("check", "given", "rows"),
    [
        ("weights", ("--seeds", "0", "--draw", "permutation"), 2 * (1 + 6)),
        ("noise", ("--seeds", "0,1", "--sigma", "5,20"), 2 * 2 * 2),
        ("methods", ("--share", ".2"), 1),
    ],
)
def test_a_check_writes_rows_and_a_report(tiny_bundle, tmp_path, capsys, check, given, rows):
    asked = ("-m", "grad_eclip", "-m", "attention", "-b", tiny_bundle, "--out", tmp_path, *DATA)
    assert run("sanity", check, *given, *asked) == 0
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert len(found) == rows
    text = (tmp_path / "report.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert "samples: 1" in text
    assert "grad_eclip" in text
    assert (tmp_path / "spearman.png").is_file()
    assert run("sanity", check, *given, *asked) == 2  # there are results already
    assert "results already" in capsys.readouterr().err


def test_by_default_all_methods_of_one_run_are_compared(tiny_bundle, tmp_path):
    assert run("sanity", "methods", "-b", tiny_bundle, "--out", tmp_path, *DATA) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    found = {name for row in rows for name in (row["first"], row["second"])}
    assert {"grad_eclip", "chefer", "attention", "concept_attribution", "rollout"} <= found
    assert not found & {"rise", "occlusion", "mmel"}  # by passes, or of more blocks than the bundle explains
    assert len(rows) == len(found) * (len(found) - 1) // 2


def test_options_of_other_checks_are_refused(tmp_path, capsys):
    for check, option in (("weights", "--sigma"), ("methods", "--seeds"), ("noise", "--draw"), ("weights", "--share")):
        assert run("sanity", check, option, "1", "--out", tmp_path) == 2
        assert f"{option}: not an option of the check of {check}" in capsys.readouterr().err
    assert run("sanity", "colours", "--out", tmp_path) == 2
    assert "weights, noise, methods" in capsys.readouterr().err
    assert run("sanity", "noise", "--sigma", "five", "--out", tmp_path) == 2
