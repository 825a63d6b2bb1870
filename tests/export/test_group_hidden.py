"""The group "hidden": the tokens before the last blocks, and graphs that go on from any tokens, with their gradient."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, open_session
from eyeshine.errors import SignalError
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.tails import hidden_graph, tail_graph, text_hidden_graph, text_tail_graph
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import evaluate, normalised, relative, run_onnxruntime, trace
from tiny import arrays, tiny_config, tiny_model, tiny_source

SHAPES = {
    "plain": {},
    "quickgelu": {"quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True}},
    "LayerScale": {"vision": {"ls_init_value": 0.1}, "quick_gelu": True},
    "five heads of six": {"vision": {"width": 30, "head_width": 6}},
    "patch does not divide": {"vision": {"image_size": [35, 29]}},
    "one patch": {"vision": {"image_size": 8}},
}


def built(source, make, count, dtype=np.float64, opset=23):
    normalisation, config = source.normalisation, source.config
    weights = vision_weights(
        arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std
    )
    return make(config, weights, count, Form(opset, dtype=dtype))


def open_clip_tail(model, state, text, count):
    """open_clip's own blocks from ``state`` on, and dc/d(state) of every text by autograd."""
    visual = model.visual
    tokens = torch.from_numpy(state).double().requires_grad_()
    x = tokens
    for block in list(visual.transformer.resblocks)[-count:]:
        x = block(x)
    embedding = visual.ln_post(x[:, 0]) @ visual.proj
    cosines = F.cosine_similarity(embedding[:, None], torch.from_numpy(text).double()[None], dim=-1)
    gradients = [torch.autograd.grad(column.sum(), tokens, retain_graph=True)[0] for column in cosines.T]
    return {
        "embedding": F.normalize(embedding, dim=-1).detach().numpy(),
        "similarity": cosines.detach().numpy(),
        "state_gradient": torch.stack(gradients, 1).numpy(),
    }


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    errors = {name: relative(got[name], expected[name]) for name in got}
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_is_what_open_clips_blocks_are_given(shape, opset):
    raw = tiny_config(**SHAPES[shape])
    source, model, random = tiny_source(raw), tiny_model(raw).double(), np.random.default_rng(0)
    pixels = random.random((2, 3, *source.config.vision.image_size))
    text = random.standard_normal((3, source.config.embed_dim))
    got = evaluate(built(source, hidden_graph, 3, opset=opset), {"pixels": pixels, "text": text})
    with torch.no_grad():
        embedding, kept = trace(model, normalised(pixels, source.normalisation.mean, source.normalisation.std))
        cosines = F.cosine_similarity(embedding[:, None], torch.from_numpy(text)[None], dim=-1)
    expected = {
        "embedding": F.normalize(embedding, dim=-1).numpy(),
        "similarity": cosines.numpy(),
        "hidden": torch.stack(kept["input"][-3:], 1).numpy(),
    }
    assert_close(got, expected, 1e-11)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tail_in_float64_equals_autograd_on_open_clips_blocks(shape, count, opset):
    raw = tiny_config(**SHAPES[shape])
    source, model, random = tiny_source(raw), tiny_model(raw).double(), np.random.default_rng(count)
    rows, columns = source.config.vision.grid
    state = random.standard_normal((2, 1 + rows * columns, source.config.vision.width))
    text = 3 * random.standard_normal((3, source.config.embed_dim))
    got = evaluate(built(source, tail_graph, count, opset=opset), {"state": state, "text": text})
    assert_close(got, open_clip_tail(model, state, text, count), 1e-11)


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 5), (3, 1), (3, 5)])
def test_onnxruntime_float32_with_dynamic_states_and_prompts(images, prompts):
    raw = tiny_config(vision={"ls_init_value": 0.1})
    source, model, random = tiny_source(raw), tiny_model(raw).double(), np.random.default_rng(0)
    state = random.standard_normal((images, 17, 32)).astype(np.float32)
    text = random.standard_normal((prompts, 24)).astype(np.float32)
    got = run_onnxruntime(built(source, tail_graph, 3, np.float32), {"state": state, "text": text})
    assert_close(got, open_clip_tail(model, state, text, 3), 1e-4)


def open_clip_text(model, tokens):
    """Tokens before every block of open_clip's text tower, its own modules."""
    ids = torch.from_numpy(tokens)
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
    kept = []
    for block in model.transformer.resblocks:
        kept.append(x)
        x = block(x, attn_mask=model.attn_mask[: ids.shape[1], : ids.shape[1]])
    return kept


TEXTS = {"plain": {}, "quickgelu": {"quick_gelu": True}, "LayerScale": {"text": {"ls_init_value": 0.1}}}


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", TEXTS)
def test_the_text_towers_tokens_and_tails_equal_open_clips_blocks_and_autograd(shape, count, opset):
    overrides = dict(TEXTS[shape])
    raw = tiny_config(text={"layers": 3, **overrides.pop("text", {})}, **overrides)
    source, model, random = tiny_source(raw), tiny_model(raw).double(), np.random.default_rng(count)
    weights = text_weights(arrays(source), source.config.text, source.config.embed_dim)
    form = Form(opset, dtype=np.float64)
    tokens = random.integers(3, 20, (2, 7))
    found = evaluate(text_hidden_graph(source.config, weights, count, form), {"tokens": tokens})["text_hidden"]
    with torch.no_grad():
        expected = torch.stack(open_clip_text(model, tokens)[-count:], 1).numpy()
    assert relative(found, expected) <= 1e-11

    start, image = random.standard_normal((2, 7, 32)), 3 * random.standard_normal((4, 24))
    inputs = {"text_state": start, "image": image}
    got = evaluate(text_tail_graph(source.config, weights, count, form), inputs)
    state = torch.from_numpy(start).requires_grad_()
    x = state
    for block in list(model.transformer.resblocks)[-count:]:
        x = block(x, attn_mask=model.attn_mask[:7, :7].double())
    embedding = model.ln_final(x[:, -1]) @ model.text_projection
    cosines = F.cosine_similarity(embedding[:, None], torch.from_numpy(image)[None], dim=-1)
    gradients = [torch.autograd.grad(column.sum(), state, retain_graph=True)[0] for column in cosines.T]
    expected = {
        "text_embedding": F.normalize(embedding, dim=-1).detach().numpy(),
        "text_similarity": cosines.detach().numpy(),
        "text_state_gradient": torch.stack(gradients, 1).numpy(),
    }
    assert_close(got, expected, 1e-11)


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def bundle(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hidden") / request.param
    export_bundle(tiny_source(), folder, ExportOptions(signals=("hidden",), precision=request.param))
    return Bundle.open(folder)


def test_a_bundle_with_the_group_goes_on_from_its_own_tokens(bundle):
    """Tokens of ``hidden`` through a tail are the image's own embedding; at another place, or changed, they are not."""
    random = np.random.default_rng(0)
    pixels = random.random((2, 3, 32, 32), dtype=np.float32)
    text = random.standard_normal((2, 24)).astype(np.float32)
    sessions = {name: open_session(bundle, name, CpuOptions()) for name in ("encode", "hidden", "tail_2")}
    whole = sessions["encode"].run({"pixels": pixels}, ["embedding"]).outputs["embedding"]
    hidden = sessions["hidden"].run({"pixels": pixels, "text": text}, ["hidden"]).outputs["hidden"]

    def off(state):
        found = sessions["tail_2"].run({"state": np.ascontiguousarray(state), "text": text}, ["embedding"])
        return float(np.abs(found.outputs["embedding"] - whole).max())

    # In int8 the whole tower runs its lower blocks in 8 bits, a tail in float32.
    tolerance = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.2}[bundle.manifest.precision]
    assert off(hidden[:, -2]) <= tolerance
    assert min(off(hidden[:, -1]), off(hidden[:, -3]), off(hidden[::-1, -2])) > tolerance


def test_ordinary_calls_do_not_run_it(bundle):
    assert bundle.cheapest(frozenset({"similarity"})) == "image"
    assert bundle.cheapest(frozenset({"hidden"}), 4) == "hidden"
    assert set(bundle.manifest.graphs) >= {"hidden", "tail_1", "tail_2", "tail_3", "text_hidden", "text_tail_2"}
    with pytest.raises(SignalError, match="--signals hidden"):
        bundle.cheapest(frozenset({"state_gradient"}))  # no graph from pixels has it


def test_a_tower_of_two_blocks_has_two_tails(tmp_path):
    manifest = export_bundle(
        tiny_source(tiny_config(vision={"layers": 2})), tmp_path / "two", ExportOptions(signals=("hidden",))
    )
    assert {name for name in manifest.graphs if name.startswith("tail")} == {"tail_1", "tail_2"}
    assert manifest.graphs["hidden"].outputs["hidden"].blocks == (0, 1)


def test_a_wrong_gradient_is_not_exported(tmp_path, monkeypatch):
    """The check against autograd sees every tail: with one dense block left out on the way back, nothing is written."""
    from eyeshine.errors import ExportError
    from eyeshine_export.graph import dense

    monkeypatch.setattr(dense.DenseVjp, "input", lambda self, weights, middle, out, block: middle)
    with pytest.raises(ExportError, match=r"tail_2.onnx disagrees with autograd in state_gradient"):
        export_bundle(tiny_source(), tmp_path / "wrong", ExportOptions(signals=("hidden",)))
    assert not (tmp_path / "wrong").exists()
