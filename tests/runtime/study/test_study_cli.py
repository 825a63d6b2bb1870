"""``eyeshine evaluate --dataset``, in process."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from eyeshine.cli import main
from eyeshine.study import read_records


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def files(tmp_path):
    """A folder of classes, a table of captions and COCO's JSON over the same two images."""
    for k, name in enumerate(("dog", "cat")):
        (tmp_path / "val" / name).mkdir(parents=True)
        pixels = np.random.default_rng(k).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / name / "1.png")
    (tmp_path / "captions.tsv").write_text("a dog\tval/dog/1.png\na cat\tval/cat/1.png\n", "utf-8")
    (tmp_path / "coco.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "dog/1.png", "height": 40, "width": 50}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 30, 5, 30]]}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }), "utf-8")  # fmt: skip
    (tmp_path / "karpathy.json").write_text(json.dumps({
        "images": [{"filename": "1.png", "filepath": "val/cat", "split": "val", "sentences": [{"raw": "a cat"}]}]
    }), "utf-8")  # fmt: skip
    return tmp_path


COMMON = ("--method", "grad_eclip", "--method", "attention", "--threads", 1)


def test_a_study_of_roads_and_more_of_it(tiny_bundle, tmp_path, capsys):
    arguments = ["evaluate", "--dataset", "roads", "-b", tiny_bundle, *COMMON, "--preset", "pointing", "-o", tmp_path]
    assert run(*arguments, "--scenes", 2) == 0
    captured = capsys.readouterr()
    assert "| grad_eclip |" in captured.out
    assert captured.out.splitlines()[-1] == str(tmp_path / "report.md")
    assert run(*arguments, "--scenes", 3) == 2
    assert "resume" in capsys.readouterr().err
    assert run(*arguments, "--scenes", 3, "--resume", "--parquet") == 0
    assert "2 records made" in capsys.readouterr().err
    assert (tmp_path / "results.parquet").is_file()
    assert len(list(read_records(tmp_path))) == 6


def test_what_failed_can_be_done_anew(tiny_bundle, files, capsys):
    arguments = [
        "evaluate", "--dataset", "folders", "--data", files / "val", "-b", tiny_bundle, *COMMON, "--metric",
        "confidence_drop", "-o", files / "out",
    ]  # fmt: skip
    image = files / "val" / "cat" / "1.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    assert run(*arguments) == 0
    assert sum("error" in record for record in read_records(files / "out")) == 2
    image.write_bytes(whole)
    assert run(*arguments, "--resume") == 0
    assert "0 records made" in capsys.readouterr().err
    assert run(*arguments, "--resume", "--retry-failed") == 0
    said = capsys.readouterr().err
    assert "2 failed records dropped" in said
    assert "2 records made" in said
    assert not any("error" in record for record in read_records(files / "out"))


def test_boxes_need_no_masks(tiny_bundle, files):
    path = files / "coco.json"
    path.write_text(
        path.read_text("utf-8").replace('"segmentation": [[', '"bbox": [5, 5, 20, 25], "other": [['), "utf-8"
    )
    arguments = (
        "--data",
        path,
        "--images",
        files / "val",
        "--shapes",
        "box",
        "--preset",
        "pointing",
        "-o",
        files / "b",
    )
    assert run("evaluate", "--dataset", "coco", "-b", tiny_bundle, *COMMON, *arguments) == 0
    assert json.loads((files / "b" / "study.json").read_text("utf-8"))["identity"]["dataset"]["shapes"] == "box"
    assert not any("error" in record for record in read_records(files / "b"))


def test_every_data_set_has_its_protocol(tiny_bundle, files, capsys):
    studies = {
        "folders": ("--preset", "imagenet", "--data", files / "val"),
        "captions": ("--preset", "confidence", "--data", files / "captions.tsv"),
        "coco": ("--preset", "segmentation", "--data", files / "coco.json", "--images", files / "val"),
        "karpathy": ("--metric", "degradation", "--data", files / "karpathy.json", "--images", files, "--split", "val"),
        "roads-cluttered": ("--preset", "degradation", "--limit", 1),
    }
    for name, arguments in studies.items():
        out = files / name
        assert run("evaluate", "--dataset", name, "-b", tiny_bundle, *COMMON, *arguments, "-o", out) == 0, name
        assert not any("error" in record for record in read_records(out)), name
        assert (out / "report.md").is_file()


def test_settings_are_of_one_method(tiny_bundle, tmp_path):
    arguments = ["evaluate", "--dataset", "roads", "--scenes", 1, "-b", tiny_bundle, "--metric", "concept_drop"]
    two = ("-m", "rise", "-m", "occlusion", "--set", "rise.masks=20", "--seeds", "0,5", "-o", tmp_path / "a")
    assert run(*arguments, *two) == 0
    said = json.loads((tmp_path / "a" / "study.json").read_text("utf-8"))["identity"]
    assert said["methods"]["rise"]["masks"] == 20
    assert sorted((r["method"], r["seed"]) for r in read_records(tmp_path / "a"))[-2:] == [("rise", 0), ("rise", 5)]
    assert run(*arguments, "-m", "rise", "--set", "masks=20", "-o", tmp_path / "b") == 0


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--dataset", "roads"), "--out"),
        (("--dataset", "imagenet", "-o", "x"), "unknown data set"),
        (("--dataset", "folders", "-o", "x"), "--data"),
        (("--dataset", "coco", "--data", "x.json", "-o", "x"), "--images"),
        (("--dataset", "roads", "-o", "x", "-t", "a dog"), "--text: not an option of an evaluation of a data set"),
        (("--dataset", "roads", "-o", "x", "--texts", "all"), "unknown texts"),
        (("--dataset", "roads", "-o", "x", "--data", "y"), "--data: not an option of data set roads"),
        (
            ("--dataset", "coco", "--data", "y", "--images", ".", "--texts", "label", "-o", "x"),
            "--texts: not an option",
        ),
        (("--dataset", "captions", "--data", "y", "--first", 0, "-o", "x"), "--first: not an option of data set capt"),
        (("--dataset", "folders", "--data", ".", "--split", "val", "-o", "x"), "--split: not an option"),
        (("--dataset", "coco", "--data", "y", "--images", ".", "--shapes", "dot", "-o", "x"), "mask, box"),
        (("--dataset", "roads", "-o", "x", "--retry-failed"), "--resume --retry-failed"),
        (("photo.png", "-t", "a dog", "--seeds", "1"), "--seeds: not an option of an evaluation of images"),
        (("photo.png", "-t", "a dog", "--limit", 0), "--limit: not an option of an evaluation of images"),
        (("photo.png", "-t", "a dog", "--split", "test"), "--split: not an option of an evaluation of images"),
        (("--dataset", "roads", "-o", "x", "--seeds", "a"), "--seeds"),
        (("--dataset", "roads", "-o", "x", "--set", "chefer.x=1"), "of no method"),
        (("--dataset", "roads", "-o", "x", "--preset", "magic"), "unknown metric"),
        (("--dataset", "roads", "-o", "x", "-m", "magic"), "unknown method"),
        (("photo.png", "-t", "a dog", "--resume"), "--resume: not an option of an evaluation of images"),
        (("photo.png", "-t", "a dog", "-m", "chefer", "-m", "attention"), "one --method"),
        (("photo.png",), "0 text(s)"),
    ],
)
def test_wrong_usage_exits_2_before_anything_is_run(tiny_bundle, tmp_path, monkeypatch, capsys, extra, said):
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "-b", tiny_bundle, *extra) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
