"""``eyeshine evaluate`` and ``eyeshine metrics``, in process."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from eyeshine.cli import main
from eyeshine.metrics import METRICS, PRESETS


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def file(tmp_path, photo):
    path = tmp_path / "photo.png"
    Image.fromarray(photo(0, 40, 60)).save(path)
    return path


@pytest.fixture
def mask(tmp_path):
    """Two objects in two shades."""
    values = np.zeros((40, 60), np.uint8)
    values[5:20, 15:30], values[25:38, 35:48] = 1, 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_json_is_what_the_runtime_says(file, mask, tiny, tiny_bundle, capsys):
    code = run(
        "evaluate", file, file, "-t", "a dog", "-t", "a cat", "-b", tiny_bundle, "--negative", "the sky", "--json",
        "--metric", "concept_drop", "--metric", "degradation", "--preset", "m2ib-fixed", "--threads", 1,
    )  # fmt: skip
    assert code == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["image"] for record in records] == [str(file)] * 2
    names = ["concept_drop", "degradation", "confidence_drop", "confidence_increase"]
    expected = tiny.evaluate(str(file), ["a dog", "a cat"], metrics=names)
    for record in records:
        for p, row in enumerate(record["scores"]):
            assert list(row["metrics"]) == names
            for name in names:
                assert row["metrics"][name]["value"] == pytest.approx(expected.score(name, 0, p).value, abs=1e-6)


def test_a_mask_has_an_object_per_colour(file, mask, tiny, tiny_bundle, capsys):
    shades = np.asarray(Image.open(mask))
    expected = tiny.evaluate(str(file), ["a dog"], masks=np.stack([shades == 1, shades == 255]))
    arguments = ["evaluate", file, "-t", "a dog", "-b", tiny_bundle, "--json", "--threads", 1]
    assert run(*arguments, "--mask", mask) == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    places = [name for name, metric in METRICS.items() if "mask" in metric.needs]
    assert len(places) == 6
    for name in places:
        assert record["scores"][0]["metrics"][name]["value"] == pytest.approx(expected.score(name).value, abs=1e-6)
    assert run(*arguments, "-t", "a cat", "--mask", mask, "--mask", mask) == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record["scores"][0]["metrics"]["pixel_ap"]["value"] == pytest.approx(
        expected.score("pixel_ap").value, abs=1e-4
    )


def test_labels_of_a_file_and_of_options(file, tiny_bundle, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("a dog\n\n a cat \n", "utf-8")
    arguments = ["evaluate", file, "-t", "a dog", "-b", tiny_bundle, "--preset", "gradeclip-imagenet", "--json"]
    assert run(*arguments, "--labels", tmp_path / "labels.txt", "--label", "the sky") == 0
    from_both = json.loads(capsys.readouterr().out)["scores"]
    assert run(*arguments, "--label", "a dog", "--label", "a cat", "--label", "the sky") == 0
    assert json.loads(capsys.readouterr().out)["scores"] == from_both


def test_a_contrast_of_the_models_own_choice(file, tiny_bundle, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tiny model knows few of the candidates
        assert run("evaluate", file, "-t", "a dog", "-b", tiny_bundle, "--against-auto", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["scores"]
    assert row["negative"] not in (None, "a dog")
    assert row["metrics"]["negative_suppression"]["band"]


def test_the_terminal_gets_a_table(file, tiny_bundle, capsys):
    assert run("evaluate", file, "-t", "a dog", "-b", tiny_bundle) == 0
    out = capsys.readouterr().out
    assert "concept_drop ↑" in out
    assert "confidence_drop ↓" in out
    assert "a dog" in out


def test_metrics_lists_every_one(capsys):
    assert run("metrics") == 0
    table = capsys.readouterr().out
    assert run("metrics", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if not row["preset"]] == list(METRICS)
    assert {row["preset"] for row in rows} == {None, *PRESETS}
    assert {row["name"]: row["images"] for row in rows if not row["preset"]}["deletion"] == 225
    assert all(name in table for name in (*METRICS, *PRESETS))


def test_one_bad_image_does_not_stop_the_rest(file, tiny_bundle, tmp_path, capsys):
    assert run("evaluate", tmp_path / "gone.png", file, "-t", "a dog", "-b", tiny_bundle, "--json") == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "gone.png" in captured.err
    assert "1 of 2" in captured.err


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["--metric", "magic"], 2, "unknown metric"),
        (["--metric", "negative_suppression"], 2, "needs a negative text"),
        (["--preset", "rise"], 2, "needs a label set"),
        (["--labels", "gone.txt"], 2, "labels cannot be read"),
        (["--mask", "gone.png"], 1, "no such image file"),
        (["--mask", "MASK", "--mask", "MASK"], 2, "one for each"),
        (["--mask", "SMOOTH"], 1, "too many colours"),
        (["--mask", "OTHER"], 2, "not a mask of the image"),
        (["--method", "magic"], 2, "unknown method"),
        (["--set", "colour=3"], 2, "no such setting"),
        (["--max-batch", "0"], 2, "max_batch"),
        (["--against-rest", "--against", "a cat"], 2, "exclude"),
    ],
)
def test_usage_exits_2_and_failures_1_without_a_traceback(file, mask, tiny_bundle, tmp_path, capsys, extra, code, said):
    Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60)).save(tmp_path / "smooth.png")
    Image.fromarray(np.ones((60, 40), np.uint8)).save(tmp_path / "other.png")
    paths = {"MASK": mask, "SMOOTH": tmp_path / "smooth.png", "OTHER": tmp_path / "other.png"}
    assert run("evaluate", file, "-t", "a dog", "-b", tiny_bundle, *(paths.get(word, word) for word in extra)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err
