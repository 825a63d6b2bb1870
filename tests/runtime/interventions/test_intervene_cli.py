"""``eyeshine intervene``, in process."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from eyeshine.cli import main


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["intervene", *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def call(tmp_path, photo, tiny_bundle):
    path = tmp_path / "photo.png"
    Image.fromarray(photo()).save(path)
    return lambda *arguments: run(
        path, "-t", "a red car", "-t", "the dog", "-b", tiny_bundle, "--threads", 1, *arguments
    )


def test_json_is_what_the_runtime_says(call, explainer, photo, capsys):
    assert call("--head", "1.0", "--head", "3.1", "--block", "2.mlp", "--block", 0, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    changes = {"heads": [(1, 0), (3, 1)], "blocks": [(2, "mlp"), 0]}
    expected = explainer.intervene(photo(), ["a red car", "the dog"], **changes)
    assert record["after"] == pytest.approx(expected.after.tolist(), abs=1e-6)
    assert record["change"] == pytest.approx((expected.after - expected.before).tolist(), abs=1e-6)
    assert record["changes"] == list(expected.changes)


def test_patches_are_named_by_place_or_by_a_mask(call, tmp_path, explainer, photo, capsys):
    mask = np.zeros((60, 90, 3), np.uint8)
    mask[:15, 30:60, 1] = 9  # of the 60 x 60 pixels in the middle: columns 1 and 2 of row 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    tokens = np.zeros((4, 4), bool)
    tokens[0, 1:3] = True
    expected = explainer.intervene(photo(), ["a red car", "the dog"], tokens=tokens, fill="black")
    for given in (("--patch", "0,1", "--patch", "0,2"), ("--mask", tmp_path / "mask.png")):
        assert call(*given, "--fill", "black", "--json") == 0
        assert json.loads(capsys.readouterr().out)["after"] == pytest.approx(expected.after.tolist(), abs=1e-6)
    region = explainer.intervene(photo(), ["a red car", "the dog"], region=tokens, depth=2)
    assert call("--patch", "0,1", "--patch", "0,2", "--replace-by", "mean", "--depth", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["after"] == pytest.approx(region.after.tolist(), abs=1e-6)


def test_a_sweep_lists_what_moves_the_similarity_most(call, explainer, photo, capsys):
    assert call("--each", "heads") == 0
    out = capsys.readouterr().out
    sweep = explainer.ablate_each(photo(), ["a red car", "the dog"], "heads")
    (block, head), change = sweep.strongest(0)[0]
    assert f"{change:+.4f}  without head {block}.{head}" in out
    assert call("--each", "patches", "--json") == 0
    assert np.shape(json.loads(capsys.readouterr().out)["change"]) == (4, 4, 2)


def test_text_output_names_the_change(call, capsys):
    assert call("--block", "1") == 0
    assert "block 1 passed over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--head", "3"), "BLOCK.HEAD"),
        (("--block", "x"), "BLOCK.attention"),
        (("--block", "1.norm"), "attention, mlp"),
        (("--patch", "4,0"), "no such patch"),
        (("--each", "heads", "--head", "0.0"), "in turn"),
        (("--each", "layers"), "heads, blocks, patches"),
        (("--replace-by", "mean"), "--patch or --mask"),
        ((), "nothing to change"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_right(call, capsys, arguments, message):
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err
