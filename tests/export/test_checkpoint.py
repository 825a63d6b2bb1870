"""Checkpoint files of every layout come out as the weights that went in; what is unsafe or damaged is refused."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.checkpoint import read_checkpoint, to_open_clip
from layouts import huggingface_layout, openai_layout
from tiny import tiny_config, tiny_model

RAW = tiny_config(quick_gelu=True)


@pytest.fixture(scope="module")
def state():
    return {name: value.detach().clone() for name, value in tiny_model(RAW).state_dict().items()}


def save(path, state):
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def assert_same(got, expected, tolerance=0.0):
    assert got.keys() == expected.keys()
    assert {value.dtype for value in got.values()} == {torch.float32}
    for name, value in expected.items():
        assert got[name].shape == value.shape
        assert (got[name] - value).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("layout", ["open_clip", "openai", "huggingface"])
def test_every_layout_in_every_format(state, layout, suffix, tmp_path):
    theirs = {
        "open_clip": lambda: state,
        "openai": lambda: openai_layout(state, 32, 12, 24),
        "huggingface": lambda: huggingface_layout(state),
    }[layout]()
    found = read_checkpoint(save(tmp_path / f"model{suffix}", theirs))
    assert found.layout == layout
    assert found.activation == (None if layout == "open_clip" else "quick_gelu")
    assert_same(found.state, state, 1e-3 if layout == "openai" else 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(state, dtype, tmp_path):
    found = read_checkpoint(save(tmp_path / "model.safetensors", {n: v.to(dtype) for n, v in state.items()}))
    assert_same(found.state, state, 1e-2)


def test_prefixes_of_wrappers_are_taken_off(state):
    names = tiny_model({**RAW, "custom_text": True}).state_dict().keys()
    custom = {f"text.{name}" if f"text.{name}" in names else name: value for name, value in state.items()}
    assert custom.keys() == names
    assert_same(to_open_clip(custom).state, state)
    assert_same(to_open_clip({f"module.{name}": value for name, value in custom.items()}).state, state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_training_checkpoint_holds_the_weights_inside(state, key, tmp_path):
    saved = {"epoch": 3, "name": "run", key: state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    assert_same(read_checkpoint(save(tmp_path / "epoch_3.pt", saved)).state, state)


def test_buffers_that_are_no_weights_are_left_out(state):
    theirs = huggingface_layout(state)
    theirs["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    assert_same(to_open_clip(theirs).state, state)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, "quick_gelu"),
        ({}, "quick_gelu"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_act": "quick_gelu"}, "quick_gelu"),
    ],
)
def test_hugging_face_names_its_activation_beside_the_weights(state, named, expected, tmp_path):
    if named is not None:
        config = {"model_type": "clip", "vision_config": named, "text_config": named}
        (tmp_path / "config.json").write_text(json.dumps(config))
    path = save(tmp_path / "model.safetensors", huggingface_layout(state))
    assert read_checkpoint(path).activation == expected


@pytest.mark.parametrize("towers", [("gelu", "quick_gelu"), ("relu", "relu")])
def test_activations_that_no_configuration_expresses_are_refused(state, towers, tmp_path):
    config = {part: {"hidden_act": act} for part, act in zip(("vision_config", "text_config"), towers, strict=True)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=towers[0]):
        read_checkpoint(save(tmp_path / "model.safetensors", huggingface_layout(state)))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b'{"vision_config": null, "text_config": 3}'])
def test_a_damaged_config_beside_the_weights_is_an_error(state, content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ExportError, match=r"config\.json"):
        read_checkpoint(save(tmp_path / "model.safetensors", huggingface_layout(state)))


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("visual.layer1.0.conv1.weight", "ResNet"),
        ("visual.attn_pool_contrastive.query", "second attention pool"),
        ("visual.trunk.blocks.0.norm1.weight", "timm"),
        ("text.transformer.embeddings.word_embeddings.weight", "HF text tower"),
        ("text.transformer.encoder.block.0.layer.0.layer_norm.weight", "HF text tower"),
    ],
)
def test_towers_of_other_kinds_are_refused_by_name(state, key, named):
    with pytest.raises(UnsupportedError, match=named):
        to_open_clip({**state, key: torch.zeros(1)})


def test_keys_of_no_known_layout_are_an_error(state):
    with pytest.raises(ExportError, match=r"no known layout.*backbone"):
        to_open_clip({"backbone.weight": torch.zeros(1)})
    with pytest.raises(ExportError, match="no known layout"):
        to_open_clip({})
    theirs = huggingface_layout(state)
    with pytest.raises(ExportError, match="does not have"):
        to_open_clip({**theirs, "vision_model.encoder.layers.0.self_attn.rotary.weight": torch.zeros(1)})
    del theirs["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ExportError, match="lacks a projection"):
        to_open_clip(theirs)


def test_a_torchscript_archive_is_refused_with_a_cure_that_works(state, tmp_path, monkeypatch):
    class Archive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Module()
            self.visual.conv1 = torch.nn.Conv2d(3, 4, 2, bias=False)
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Archive()), tmp_path / "IN.pt")
    with pytest.raises(ExportError, match="TorchScript") as caught:
        read_checkpoint(tmp_path / "IN.pt")
    monkeypatch.chdir(tmp_path)
    exec(caught.value.cure.split('"')[1])
    assert read_checkpoint(tmp_path / "OUT.pt").layout == "openai"


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save_with", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(state, tmp_path, save_with):
    mark = tmp_path / "ran"
    save_with({**state, "harmful": Harmful(mark)}, tmp_path / "model.pt")
    with pytest.raises(ExportError, match="more than weights"):
        read_checkpoint(tmp_path / "model.pt")
    assert not mark.exists()
    if save_with is torch.save:  # the check can fail: read the usual way, it does run
        torch.load(tmp_path / "model.pt", weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 1, 7, 1000, -1, -200])
def test_a_truncated_file_is_an_error(state, suffix, keep, tmp_path):
    path = save(tmp_path / f"model{suffix}", state)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ExportError, match=r"cannot be read|damaged"):
        read_checkpoint(path)


def test_damaged_missing_and_foreign_files_are_errors(state, tmp_path):
    whole = bytearray(save(tmp_path / "model.pt", state).read_bytes())
    directory = whole.rfind(b"PK\x01\x02")
    whole[directory : directory + 4] = b"????"
    (tmp_path / "damaged.pt").write_bytes(whole)
    (tmp_path / "text.pt").write_text("hello, I am no checkpoint")
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("photo.jpg", b"...")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("damaged.pt", "text.pt", "photos.pt", "list.pt", "missing.pt", "."):
        with pytest.raises(ExportError, match="checkpoint"):
            read_checkpoint(tmp_path / name)
