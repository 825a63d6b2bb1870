"""A bundle's weights taken out of it and exported again."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from eyeshine import Bundle, Explainer, roads
from eyeshine.bundle import sha256_of
from eyeshine.errors import ExportError
from eyeshine.verify import output_error
from eyeshine_export.graph.unfold import state_of
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.reference import explain_reference, text_reference
from eyeshine_export.roads.ship import again
from eyeshine_export.source import Source
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import relative
from tiny import tiny_config, tiny_source, word_tokens


@pytest.mark.parametrize(
    "raw",
    [
        tiny_config(), tiny_config({"no_ln_pre": True, "layers": 1, "image_size": [35, 29]}, quick_gelu=True),
        tiny_config({"ls_init_value": 0.1}, {"ls_init_value": 0.1}, init_logit_bias=-3.0),
    ],
    ids=["plain", "no ln_pre", "LayerScale"],
)  # fmt: skip
def test_the_state_computes_the_same(tmp_path, raw):
    """By the eager model, which folds nothing: on the state that was exported and on the one taken out of it."""
    source = tiny_source(raw)
    export_bundle(source, tmp_path / "tiny")
    state = state_of(Bundle.open(tmp_path / "tiny"))
    unfolded = {name: tensor for name, tensor in source.state.items() if "gamma" not in name}
    assert {name: tensor.shape for name, tensor in state.items()} == {k: t.shape for k, t in unfolded.items()}
    for name in ("logit_scale", "logit_bias"):
        assert name not in unfolded or state[name] == pytest.approx(unfolded[name])

    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.random((2, 3, *source.config.vision.image_size), dtype=np.float32))
    text = torch.from_numpy(random.standard_normal((3, 24), dtype=np.float32))
    ends = (source.normalisation.mean, source.normalisation.std)
    one, two = (explain_reference(s, source.config, pixels, text, 1, *ends) for s in (source.state, state))
    assert {name: relative(two[name].numpy(), one[name].numpy()) <= 1e-5 for name in one} == dict.fromkeys(one, True)
    tokens = torch.tensor([[22, 4, 5, 23, 0, 0], [22, 7, 8, 9, 10, 23]])
    one, two = (text_reference(s, source.config, tokens).numpy() for s in (source.state, state))
    assert relative(two, one) <= 1e-5


def test_exporting_again_and_again_does_not_drift(tmp_path):
    """mean and std and the positions go in and out to a rounding."""
    config = parse_config("tiny", tiny_config())
    export_bundle(tiny_source(), tmp_path / "0")
    for turn in (1, 2):
        state = state_of(Bundle.open(tmp_path / str(turn - 1)))
        export_bundle(Source(config, state, "random weights", tokens=word_tokens()), tmp_path / str(turn))
    first, second = (np.fromfile(tmp_path / turn / "weights.bin", np.float32) for turn in ("1", "2"))
    assert np.abs(first - second).max() <= 5e-7


def test_rounded_weights_are_not_a_checkpoint(tmp_path):
    export_bundle(tiny_source(), tmp_path / "tiny")
    path = tmp_path / "tiny" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "precision": "fp16"}), "utf-8")
    with pytest.raises(ExportError, match=r"rounded.*fp16.*fp32"):
        state_of(Bundle.open(tmp_path / "tiny"))


def test_the_embedded_bundle_is_exported_again_with_its_scores(tmp_path):
    old = Bundle.open()
    shutil.copytree(old.folder, tmp_path / "roads")
    again(tmp_path / "roads", tmp_path / "roads", ExportOptions(opset=20))
    new = Bundle.open(tmp_path / "roads")
    assert (new.manifest.opset, new.name) == (20, "roads")
    assert new.manifest.model.source == old.manifest.model.source
    assert new.manifest.model.logit_scale == pytest.approx(old.manifest.model.logit_scale)
    for name in ("scores.json", "MODEL_CARD.md", "tokenizer.json"):
        assert sha256_of(new.folder / name) == sha256_of(old.folder / name) == new.manifest.files[name].sha256
    golden = old.golden()
    for graph in ("encode", "image", "text"):
        session = onnxruntime.InferenceSession(new.folder / f"{graph}.onnx", providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        inputs = {value.name: golden[f"in/{value.name}"] for value in session.get_inputs()}
        for name, value in zip(names, session.run(names, inputs), strict=True):
            assert output_error(name, value, golden[f"{graph}/{name}"]) <= 1e-5, (graph, name)
    scene = roads.render(seed=roads.HELD_OUT_FROM)
    texts = [roads.article(label) for label in roads.LABELS[:3]]
    one, two = (Explainer(bundle).explain(scene.image, texts) for bundle in (old, new))
    assert relative(two.maps, one.maps) <= 1e-4
