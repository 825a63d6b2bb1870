"""The command line, in process: what it prints where, what it writes, how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyeshine.cli import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_json_is_one_object_per_image_and_nothing_else_on_stdout(photo, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    code = run("explain", photo, photo, "-t", "a dog", "-t", "a cat", "--bundle", tiny_bundle, "--json", "--out", out)
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 2
    keys = ["image", "bundle", "method", "target", "texts", "similarities", "patch_grid", "timings_ms", "outputs"]
    assert list(records[0]) == keys
    assert records[0]["texts"] == ["a dog", "a cat"]
    files = [Path(file) for record in records for file in record["outputs"]]
    assert len(set(files)) == 6
    assert all(file.is_file() for file in files)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in files)


def test_the_archive_holds_maps_heatmaps_similarities_and_texts(photo, tiny_bundle, tmp_path):
    assert run("explain", photo, "-t", "a dog", "-t", "a cat", "-b", tiny_bundle, "-o", tmp_path / "o") == 0
    with np.load(tmp_path / "o" / "photo.npz", allow_pickle=False) as archive:
        assert archive["maps"].shape == (2, 4, 4)
        assert archive["heatmaps"].shape == (2, 40, 60)
        assert archive["similarities"].shape == (2,)
        assert archive["texts"].tolist() == ["a dog", "a cat"]
    with Image.open(tmp_path / "o" / "photo.1-a-dog.png") as picture:
        assert picture.size == (60, 40)


def test_one_bad_image_does_not_stop_the_rest(photo, tiny_bundle, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_text("not an image", "utf-8")
    code = run("explain", bad, photo, tmp_path / "gone.png", "-t", "a dog", "-b", tiny_bundle, "--json")
    captured = capsys.readouterr()
    assert code == 1
    assert [json.loads(line)["image"] for line in captured.out.splitlines()] == [str(photo)]
    assert "bad.jpg" in captured.err
    assert "gone.png" in captured.err
    assert "2 of 3" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["--method", "magic"], 2, "unknown method"),
        (["-t", " "], 2, "blank"),
        (["--against-rest"], 2, "another text"),
        (["--against-rest", "--against", "a cat"], 2, "exclude"),
        (["-t", "dog " * 50], 2, "--truncate"),
        (["--threads", "-2"], 2, "threads"),
        (["--resize", "stretch"], 2, "squash"),
        (["--template", "a photo"], 2, "template"),
        (["--bundle", "nowhere"], 1, "bundle folder is missing"),
        (["--unknown-option"], 2, "No such option"),
    ],
)
def test_usage_exits_2_and_failures_1_without_a_traceback(photo, tiny_bundle, capsys, extra, code, said):
    assert run("explain", photo, "-t", "a dog", "-b", tiny_bundle, *extra) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_no_two_results_share_a_file(photo, tiny_bundle, tmp_path, capsys):
    """Same file name, and texts that look like the name of the other image's files."""
    import warnings

    out = tmp_path / "o"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "1" is no word of the tiny model
        assert run("explain", photo, photo, "-t", "car", "-t", "1 car", "-b", tiny_bundle, "--json", "-o", out) == 0
    files = [file for line in capsys.readouterr().out.splitlines() for file in json.loads(line)["outputs"]]
    assert len(set(files)) == 6
    assert len(list(out.iterdir())) == 6


def test_a_result_that_cannot_be_written_does_not_stop_the_rest(photo, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "o"
    (out / "photo.npz").mkdir(parents=True)
    code = run("explain", photo, photo, "-t", "a dog", "-b", tiny_bundle, "--json", "-o", out)
    captured = capsys.readouterr()
    assert code == 1
    assert len(captured.out.splitlines()) == 1
    assert "1 of 2" in captured.err


def test_a_very_long_file_name_is_cut(photo, tiny_bundle, tmp_path):
    long = photo.rename(tmp_path / ("ä" * 120 + ".png"))
    assert run("explain", long, "-t", "a dog", "-b", tiny_bundle, "-o", tmp_path / "o") == 0
    assert len(list((tmp_path / "o").iterdir())) == 2


def test_words_of_a_template_are_checked_too(photo, tiny_bundle, capsys):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("explain", photo, "-t", "a dog", "--template", "a zorgon of {}", "-b", tiny_bundle) == 0
    assert "never saw: zorgon" in capsys.readouterr().err


def test_progress_goes_to_a_terminal_only(monkeypatch):
    """The bar is made where stderr is a terminal and there are several images, and nowhere else."""
    import rich.console

    from eyeshine.cli.explain import _progress

    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda self: True))
    with _progress(["a", "b"]) as each:
        assert not isinstance(each, list)
        assert list(each) == ["a", "b"]
    with _progress(["a"]) as each:
        assert each == ["a"]
    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda self: False))
    with _progress(["a", "b"]) as each:
        assert each == ["a", "b"]


def test_debug_shows_the_traceback(photo):
    from eyeshine.errors import BundleError

    with pytest.raises(BundleError):
        main(["explain", str(photo), "-t", "a dog", "--bundle", "nowhere", "--debug"])


def test_an_unwritable_output_says_so(photo, tiny_bundle, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x", "utf-8")
    assert run("explain", photo, "-t", "a dog", "-b", tiny_bundle, "--out", file / "below") == 1
    assert "output folder cannot be made" in capsys.readouterr().err


def test_truncate_and_against_reach_the_explainer(photo, tiny_bundle, capsys):
    arguments = ["-t", "dog " * 50, "--truncate", "--against", "a cat", "-m", "chefer", "-b", tiny_bundle, "--json"]
    assert run("explain", photo, *arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["target"] == "text against 'a cat'"
    assert record["method"] == "chefer"


def test_unknown_words_are_named_on_stderr(photo, tiny_bundle, capsys):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("explain", photo, "-t", "a unicorn", "-b", tiny_bundle, "--json") == 0
    captured = capsys.readouterr()
    assert "unicorn" in captured.err
    assert "unicorn" not in captured.err.replace("never saw: unicorn", "")
    assert len(captured.out.splitlines()) == 1


def test_inspect_shows_graphs_hashes_parity_and_licence(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")
    assert run("inspect", tiny_bundle) == 0
    out = capsys.readouterr().out
    manifest = json.loads((tiny_bundle / "manifest.json").read_text("utf-8"))
    for said in ("gradient", "deep", "fp32", "CC0-1.0", manifest["files"]["weights.bin"]["sha256"][:20]):
        assert said in out
    assert run("inspect", tiny_bundle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"


def test_export_from_the_command_line(tmp_path, capsys):
    from safetensors.torch import save_file

    from tiny import tiny_config, tiny_model, word_tokens, write_config

    raw = tiny_config()
    config = write_config(tmp_path / "small.json", raw)
    (tmp_path / "tokenizer.json").write_text(word_tokens().json, "utf-8")
    weights = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in tiny_model(raw).state_dict().items()}, weights)
    target = tmp_path / "bundles" / "mine"
    assert run("export", config, "--checkpoint", weights, "--out", target, "--licence", "MIT") == 0
    assert "mine" in capsys.readouterr().out
    assert json.loads((target / "manifest.json").read_text("utf-8"))["model"]["licence"] == "MIT"
    assert run("export", config, "--checkpoint", weights, "--out", target) == 1
    assert "--force" in capsys.readouterr().err
    (target / "precious.txt").write_text("mine", "utf-8")
    assert run("export", config, "--checkpoint", weights, "--out", target, "--force") == 1
    assert "precious.txt" in capsys.readouterr().err
    assert (target / "precious.txt").is_file()
    assert run("export", config, "--out", tmp_path / "z") == 2
    assert run("export", "hf-hub:a/b", "--checkpoint", weights, "--out", tmp_path / "z") == 2
    capsys.readouterr()
    assert run("export", "ViT-Z-99", "--checkpoint", weights, "--out", tmp_path / "z") == 2
    assert "unknown model" in capsys.readouterr().err


def test_export_without_its_extra_says_what_to_install(tmp_path, capsys, monkeypatch):
    import eyeshine_export.cli

    monkeypatch.setattr(eyeshine_export.cli, "find_spec", lambda name: None)
    assert run("export", "ViT-B-32", "--pretrained", "openai", "--out", tmp_path / "x") == 1
    assert ".[export]" in capsys.readouterr().err


def test_version(capsys):
    from eyeshine import __version__

    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__
