"""Where models come from: names, tags, files, the hub. Nothing here uses the network."""

import json

import pytest
import torch
from safetensors.torch import save_file

from eyeshine.errors import ExportError, EyeshineError
from eyeshine_export.compat import import_open_clip
from eyeshine_export.source import OPENAI_MEAN, OPENAI_STD, Normalisation, resolve
from layouts import huggingface_layout, openai_layout
from tiny import tiny_config, tiny_model, word_tokens, write_config

open_clip = import_open_clip()
PLAIN, QUICK = tiny_config(), tiny_config(quick_gelu=True)


@pytest.fixture(scope="module")
def state():
    return {name: value.detach().clone() for name, value in tiny_model(PLAIN).state_dict().items()}


@pytest.fixture
def files(tmp_path, state):
    """A folder with both configurations and the weights in three layouts, each in a folder of its own."""
    write_config(tmp_path / "plain.json", PLAIN)
    write_config(tmp_path / "plain-quickgelu.json", QUICK)
    layouts = {"open_clip": state, "openai": openai_layout(state, 32, 12, 24), "huggingface": huggingface_layout(state)}
    for name, theirs in layouts.items():
        (tmp_path / name).mkdir()
        save_file(theirs, tmp_path / name / "model.safetensors")
    return tmp_path


def open_file(files, config, layout, **more):
    return resolve(
        str(files / f"{config}.json"), checkpoint=files / layout / "model.safetensors", tokens=word_tokens(), **more
    )


def test_a_file_and_a_configuration(files, state):
    found = open_file(files, "plain", "open_clip", licence="MIT")
    assert (found.config.name, found.origin, found.licence) == ("plain", "model.safetensors (open_clip keys)", "MIT")
    assert (found.normalisation.mean, found.normalisation.std) == (OPENAI_MEAN, OPENAI_STD)
    assert found.state.keys() == state.keys()
    assert open_file(files, "plain", "open_clip").licence.startswith("not stated")


@pytest.mark.parametrize("layout", ["openai", "huggingface"])
def test_quickgelu_weights_under_another_configuration_are_an_error(files, layout):
    assert open_file(files, "plain-quickgelu", layout).config.vision.activation == "quick_gelu"
    with pytest.raises(ExportError, match=r"trained with quick_gelu.*has gelu.*use plain-quickgelu"):
        open_file(files, "plain", layout)


def test_hugging_face_weights_that_name_gelu_are_taken(files):
    config = {part: {"hidden_act": "gelu"} for part in ("vision_config", "text_config")}
    (files / "huggingface" / "config.json").write_text(json.dumps(config))
    assert open_file(files, "plain", "huggingface").config.vision.activation == "gelu"
    with pytest.raises(ExportError, match=r"trained with gelu.*has quick_gelu.*use plain"):
        open_file(files, "plain-quickgelu", "huggingface")


def test_a_registered_name_with_a_file(tmp_path):
    raw = open_clip.get_model_config("ViT-S-32-alt")
    found = {"visual.conv1.weight": torch.zeros(1)}
    save_file(found, tmp_path / "model.safetensors")
    assert resolve("ViT-S-32-alt", checkpoint=tmp_path / "model.safetensors").config.embed_dim == raw["embed_dim"]


@pytest.fixture
def downloads(files, monkeypatch):
    """Let open_clip "download" the tiny weights; returns what it was asked for."""
    asked = []

    def download(config, **_):
        asked.append(config)
        return str(files / "open_clip" / "model.safetensors")

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    return asked


@pytest.mark.parametrize(
    ("name", "tag", "licence", "mode"),
    [
        ("ViT-B-32-quickgelu", "openai", "MIT", "shortest"),
        ("ViT-B-32", "laion2b_s34b_b79k", "not stated", "shortest"),
        ("ViT-B-32", "datacomp_xl_s13b_b90k", "not stated", "shortest"),
        ("ViT-B-32-quickgelu", "metaclip_400m", "not stated", "shortest"),
        ("ViT-H-14-378-quickgelu", "dfn5b", "not stated", "squash"),
    ],
)
def test_a_pretrained_tag(downloads, name, tag, licence, mode):
    found = resolve(name, pretrained=tag)
    assert downloads == [open_clip.get_pretrained_cfg(name, tag)]
    assert (found.origin, found.preprocess.resize) == (f"open_clip tag {tag}", mode)
    assert found.licence.startswith(licence)
    assert found.normalisation.mean == tuple(downloads[0]["mean"])


@pytest.mark.parametrize("tag", ["openai", "metaclip_400m"])
def test_a_tag_of_another_activation_is_an_error(downloads, tag):
    with pytest.raises(ExportError, match=r"trained with quick_gelu.*cure: use ViT-B-32-quickgelu"):
        resolve("ViT-B-32", pretrained=tag)


def test_a_gelu_tag_under_quickgelu_is_an_error(downloads, monkeypatch):
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"hf_hub": "x/"})
    with pytest.raises(ExportError, match=r"trained with gelu.*cure: use ViT-B-32$"):
        resolve("ViT-B-32-quickgelu", pretrained="laion")


def test_a_failed_download_says_what_to_do(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", fail)
    with pytest.raises(ExportError, match=r"'openai' could not be.*no route.*ViT-B-32-quickgelu --checkpoint"):
        resolve("ViT-B-32-quickgelu", pretrained="openai")
    with pytest.raises(ExportError, match=r"hf-hub:owner/name could not be downloaded.*no route.*--checkpoint"):
        resolve("hf-hub:owner/name")


def test_a_hub_repository(files, monkeypatch):
    hub = {"model_cfg": PLAIN, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": 0.2, "resize_mode": "squash"}}
    wanted = {
        "open_clip_config.json": write_config(files / "hub.json", hub),
        None: files / "open_clip" / "model.safetensors",
    }
    monkeypatch.setattr(
        "open_clip.pretrained.download_pretrained_from_hf", lambda owner, filename=None: str(wanted[filename])
    )
    found = resolve("hf-hub:owner/name", tokens=word_tokens(), licence="Apache-2.0")
    assert (found.config.name, found.origin, found.licence) == ("owner/name", "hf-hub:owner/name", "Apache-2.0")
    assert found.normalisation == Normalisation((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert found.preprocess.resize == "squash"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("ViT-B-33", {"pretrained": "openai"}, r"unknown model.*ViT-B-32.*cure"),
        ("no such model", {"pretrained": "openai"}, r"unknown model.*list_models"),
        ("missing.json", {"pretrained": "openai"}, "cannot be read"),
        ("ViT-B-32", {"pretrained": "no such tag"}, r"no pretrained tag 'no such tag'.*openai"),
        ("ViT-B-32", {}, r"name the weights once.*None.*--pretrained TAG"),
        (
            "ViT-B-32",
            {"pretrained": "openai", "checkpoint": "x.pt"},
            r"once.*pretrained openai, checkpoint x.pt",
        ),
        ("RN50", {"pretrained": "openai"}, "RN50: ResNet"),
        ("EVA02-B-16", {"pretrained": "merged2b_s8b_b131k"}, "EVA02-B-16: timm"),
    ],
)
def test_what_cannot_be_resolved(model, options, message):
    with pytest.raises(ExportError, match=message):
        resolve(model, **options)


def test_a_foreign_vocabulary_needs_its_tokenizer(files):
    with pytest.raises(ExportError, match=r"foreign tokenizer.*vocab_size 24.*cure"):
        resolve(str(files / "plain.json"), checkpoint=files / "open_clip" / "model.safetensors")
    write_config(files / "worldwide.json", tiny_config(text={"hf_tokenizer_name": "facebook/xlm-v-base"}))
    with pytest.raises(ExportError, match=r"foreign tokenizer.*facebook/xlm-v-base.*--tokenizer"):
        resolve(str(files / "worldwide.json"), checkpoint=files / "open_clip" / "model.safetensors")


@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize_mode": "longest"}, {"interpolation": "random"}, {"mean": [0.5]}, {"mean": ["a", "b", "c"]},
        {"std": [0.2, 0.0, 0.2]}, {"std": "x"}, {"mean": [[1], [2], [3]]},
    ],
    ids=str,
)  # fmt: skip
def test_preprocessing_that_is_not_supported_is_an_error(files, preprocess):
    write_config(files / "odd.json", {"model_cfg": PLAIN, "preprocess_cfg": preprocess})
    with pytest.raises(EyeshineError):
        open_file(files, "odd", "open_clip")


def test_the_activation_of_a_tag_is_checked_before_the_download(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(ExportError, match=r"trained with quick_gelu.*ViT-B-16-quickgelu"):
        resolve("ViT-B-16", pretrained="openai")


def test_a_configuration_beside_open_clip_weights_names_their_activation(files, tmp_path):
    import shutil

    shutil.copy(files / "open_clip" / "model.safetensors", tmp_path / "model.safetensors")
    write_config(tmp_path / "open_clip_config.json", {"model_cfg": {**PLAIN, "quick_gelu": True}})
    config = write_config(tmp_path / "plain.json", PLAIN)
    with pytest.raises(ExportError, match="trained with quick_gelu"):
        resolve(str(config), checkpoint=tmp_path / "model.safetensors", tokens=word_tokens())


def test_weights_that_are_not_finite_are_refused(files, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(files / "open_clip" / "model.safetensors")
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    config = write_config(tmp_path / "plain.json", PLAIN)
    with pytest.raises(ExportError, match=r"not finite.*visual\.proj"):
        resolve(str(config), checkpoint=tmp_path / "nan.safetensors", tokens=word_tokens())
