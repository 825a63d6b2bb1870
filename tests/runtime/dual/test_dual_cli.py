"""``eyeshine dual``."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from eyeshine import roads
from eyeshine.cli import main

ASK = ["--prompt", "where is the stop sign?"]


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("dual") / "street.png"
    Image.fromarray(roads.render(seed=930_000_002).image).save(path)
    return path


def test_a_figure_and_its_json(photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("dual", photo, *ASK, "--answer", "a green bus", "--blind-answer", "a car", "--json", "-o", out) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.pop("outputs") == [str(out / "street.dual.png"), str(out / "street.dual.json")]
    assert json.loads((out / "street.dual.json").read_text("utf-8")) == record
    assert (record["verdict"], record["name"]) == ("divergent", "divergent but valid")
    assert set(record["maps"]) == {"cosine", "pearson", "ssim", "iou"}
    assert isinstance(record["answer"]["concepts"][0]["negative_suppression"], float)
    with Image.open(out / "street.dual.png") as picture:
        assert picture.width == 1400
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 1000


def test_the_verdict_in_words(photo, capsys):
    assert run("dual", photo, *ASK, "-a", "a stop sign", "--no-metrics") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{photo}: coherent"
    assert "log odds" in lines[1]


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        ([], 2, "neither"),
        (["-a", "a bus", "--responder", "http://localhost:1/v1", "--model", "m"], 2, "both"),
        (["--responder", "http://localhost:1/v1"], 2, "--model"),
        (["-a", " "], 2, "blank"),
        (["-a", "a bus", "--candidates", "nothing"], 2, "unknown candidates"),
        (["-a", "a bus", "--method", "magic"], 2, "unknown method"),
    ],
)
def test_usage_exits_2(photo, capsys, extra, code, said):
    assert run("dual", photo, *ASK, *extra) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_missing_image_exits_1(tmp_path, capsys):
    assert run("dual", tmp_path / "gone.png", *ASK, "-a", "a bus") == 1
    assert "gone.png" in capsys.readouterr().err


def test_a_responder_that_is_not_there_exits_1(photo, capsys):
    pytest.importorskip("openai")
    assert run("dual", photo, *ASK, "--responder", "http://localhost:1/v1", "--model", "m") == 1
    error = capsys.readouterr().err
    assert "cannot be reached" in error
    assert "Traceback" not in error
