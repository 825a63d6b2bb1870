"""``eyeshine tcav`` in process."""

import json

import numpy as np
import pytest
from PIL import Image

from eyeshine.cli import main
from eyeshine.tcav import TcavOptions, tcav


@pytest.fixture
def folders(tmp_path, photos):
    for name, images in (("red", photos(8, 1, 55)), ("random", photos(18, 2)), ("images", photos(5, 3))):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number:02}.png")
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def asked(folders, bundle):
    where = ("--random", folders / "random", "--images", folders / "images", "--bundle", bundle, "--threads", 1)
    return ("tcav", folders / "red", *where, "-t", "a red car", "-t", "the dog", "--at", "patches", "--counterparts", 5)


def test_json_is_the_record_of_the_call(folders, tiny_bundle, explainer, photos, capsys):
    assert run(*asked(folders, tiny_bundle), "--audit", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    texts, options = ["a red car", "the dog"], TcavOptions(at="patches", counterparts=5)
    expected = tcav(explainer, "red", photos(8, 1, 55), photos(18, 2), photos(5, 3), texts, options).record()
    moved = found.pop("audit")
    assert found == expected
    assert [row["text"] for row in moved] == texts
    assert all(np.isfinite(row["shift"]) and row["interval"][0] < row["interval"][1] for row in moved)


def test_lines_say_score_and_chance(folders, tiny_bundle, capsys):
    assert run(*asked(folders, tiny_bundle)) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("red: told apart ")
    assert [line.partition(":")[0] for line in lines] == ["a red car", "the dog"]
    assert all("score" in line and "random" in line and "moved" not in line for line in lines)


def test_a_folder_that_is_not_there_is_named(folders, tiny_bundle, capsys):
    (folders / "red").rename(folders / "blue")
    assert run(*asked(folders, tiny_bundle)) == 1
    assert "no such folder of images" in capsys.readouterr().err
