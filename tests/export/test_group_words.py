"""The group "words": signals and gradients of the text tower's last blocks, against open_clip's own modules."""

import numpy as np
import pytest

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, open_session
from eyeshine.errors import SignalError
from eyeshine.verify import verify
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.weights import text_weights
from eyeshine_export.graph.words import words_graph
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import evaluate, relative, run_onnxruntime
from text_oracle import LAST, open_clip_words
from tiny import arrays, tiny_config, tiny_source

SHAPES = {
    "plain": {},
    "quickgelu and LayerScale": {"quick_gelu": True, "text": {"ls_init_value": 0.1, "layers": 4}},
    "five heads of six": {"text": {"width": 30, "heads": 5, "mlp_ratio": 1.5, "layers": 3}},
    "eos": {"text": {"pool_type": "eos", "eos_id": 7, "layers": 3}},
}


def tokens_of(lengths, end=LAST, width=12, seed=0):
    """Random ids, ``lengths`` of them before the end token, other ids after it."""
    random = np.random.default_rng(seed)
    others = [token for token in range(1, LAST) if token != end]
    tokens = random.choice(others, (len(lengths), width))
    for row, length in zip(tokens, lengths, strict=True):
        row[length] = end
    return tokens.astype(np.int64)


def graph_of(raw, layers, dtype=np.float64, opset=23):
    source = tiny_source(raw)
    weights = text_weights(arrays(source, dtype), source.config.text, source.config.embed_dim)
    return words_graph(source.config, weights, layers, Form(opset, dtype=dtype))


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys() - {"attention_gradient"}
    errors = {name: relative(got[name], expected[name]) for name in got}
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("layers", [1, 2, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_autograd_on_open_clips_modules(shape, layers, opset):
    raw = tiny_config(**SHAPES[shape])
    layers = layers or raw["text_cfg"]["layers"]
    end = 7 if shape == "eos" else LAST
    tokens = tokens_of([5, 11, 1], end)
    image = 3 * np.random.default_rng(1).standard_normal((2, 24))
    got = evaluate(graph_of(raw, layers, opset=opset), {"tokens": tokens, "image": image})
    assert_close(got, open_clip_words(raw, tokens, image, layers, end), 1e-11)


@pytest.mark.parametrize(("images", "lengths"), [(1, [4]), (3, [4]), (1, [1, 7, 11, 2, 3]), (3, [1, 7, 11, 2, 3])])
def test_onnxruntime_float32_with_dynamic_images_texts_and_length(images, lengths):
    raw = tiny_config(text={"layers": 3})
    random = np.random.default_rng(0)
    image, tokens = random.standard_normal((images, 24)), tokens_of(lengths)[:, : max(lengths) + 1]
    got = run_onnxruntime(graph_of(raw, 3, np.float32), {"tokens": tokens, "image": image.astype(np.float32)})
    assert got["text_gradient"].shape == (len(lengths), images, 3, 32)
    assert_close(got, open_clip_words(raw, tokens, image, 3), 1e-4)


def test_what_follows_the_end_changes_nothing_before_it():
    raw = tiny_config()
    graph, image = graph_of(raw, 2), np.random.default_rng(0).standard_normal((1, 24))
    tokens = tokens_of([5])
    other = tokens.copy()
    other[0, 6:] = 4
    whole, changed = (evaluate(graph, {"tokens": t, "image": image}) for t in (tokens, other))
    cut = evaluate(graph, {"tokens": tokens[:, :6], "image": image})
    assert np.array_equal(whole["text_gradient"], changed["text_gradient"])
    assert relative(cut["text_gradient"], whole["text_gradient"]) <= 1e-11
    assert relative(cut["text_values"], whole["text_values"][:, :, :6]) <= 1e-11
    assert not np.allclose(whole["text_values"][:, :, 6:], changed["text_values"][:, :, 6:])
    assert not whole["text_attention"][..., 6:].any()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_with_the_group_is_checked_and_agrees_with_the_text_graph(precision, tmp_path):
    manifest = export_bundle(
        tiny_source(tiny_config(text={"layers": 3})), tmp_path / "bundle",
        ExportOptions(signals=("words",), precision=precision),
    )  # fmt: skip
    assert "words" in manifest.groups
    assert manifest.graphs["words"].outputs["text_gradient"].blocks == (0, 1, 2)
    # Text graphs of an int8 bundle are float32, and are held to that.
    assert max(manifest.parity["words"].values()) <= (1e-2 if precision == "fp16" else 1e-4)
    bundle = Bundle.open(tmp_path / "bundle")
    assert verify(bundle).passed
    tokens, image = tokens_of([3, 4]), np.ones((1, 24), np.float32)
    words = open_session(bundle, "words", CpuOptions()).run({"tokens": tokens, "image": image}, ["text_embedding"])
    text = open_session(bundle, "text", CpuOptions()).run({"tokens": tokens}, ["text_embedding"])
    tolerance = 1e-2 if precision == "fp16" else 1e-5
    assert relative(words.outputs["text_embedding"], text.outputs["text_embedding"]) <= tolerance


def test_layers_can_ask_for_more_blocks_than_eight_and_never_for_more_than_there_are(tmp_path):
    source = tiny_source(tiny_config(vision={"layers": 10}, text={"layers": 10}))
    for layers, blocks in ((None, range(2, 10)), (9, range(1, 10)), (3, range(2, 10))):
        manifest = export_bundle(source, tmp_path / "b", ExportOptions(layers, signals=("words",), force=True))
        assert manifest.graphs["words"].outputs["text_keys"].blocks == tuple(blocks)
    small = export_bundle(tiny_source(), tmp_path / "small", ExportOptions(signals=("words",)))
    assert small.graphs["words"].outputs["text_keys"].blocks == (0, 1)


def test_a_bundle_without_the_group_names_the_export(tmp_path):
    export_bundle(tiny_source(), tmp_path / "bundle", ExportOptions())
    with pytest.raises(SignalError, match="--signals"):
        Bundle.open(tmp_path / "bundle").graph("words")
