"""The group "gates": heads, blocks and patches that are taken away, against open_clip's own modules."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, open_session
from eyeshine_export.graph.gates import gates_graph
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.write import ExportOptions, export_bundle
from gated import gated_trace
from oracle import evaluate, normalised, relative, trace
from tiny import arrays, tiny_config, tiny_model, tiny_source

SHAPES = {
    "plain": {},
    "quickgelu": {"quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True}},
    "LayerScale": {"vision": {"ls_init_value": 0.1}},
    "five heads of six": {"vision": {"width": 30, "head_width": 6}},
    "patch does not divide": {"vision": {"image_size": [35, 29]}},
}


def built(source, dtype=np.float64, opset=23):
    normalisation, config = source.normalisation, source.config
    weights = vision_weights(
        arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std
    )
    return gates_graph(config, weights, Form(opset, dtype=dtype))


def open_gates(source, pixels, **changed):
    vision = source.config.vision
    count, depth = len(pixels), vision.layers
    return {
        "pixels": pixels,
        "head_gates": np.ones((count, depth, vision.heads)),
        "head_values": np.zeros((depth, vision.width)),
        "block_gates": np.ones((count, depth, 2)),
        "token_gates": np.ones((count, vision.grid[0] * vision.grid[1])),
        **changed,
    }


@pytest.fixture(params=SHAPES)
def case(request):
    raw = tiny_config(**SHAPES[request.param])
    source, model = tiny_source(raw), tiny_model(raw).double()
    pixels = np.random.default_rng(0).random((2, 3, *source.config.vision.image_size))
    with torch.no_grad():
        embedding, kept = trace(model, normalised(pixels, source.normalisation.mean, source.normalisation.std))
    return source, model, pixels, F.normalize(embedding, dim=-1).numpy(), kept


@pytest.mark.parametrize("opset", [20, 23])
def test_with_open_gates_it_is_the_model(case, opset):
    source, _, pixels, embedding, kept = case
    got = evaluate(built(source, opset=opset), open_gates(source, pixels))
    assert relative(got["embedding"], embedding) <= 1e-11
    assert relative(got["features"], kept["normed"][-1].numpy()) <= 1e-11
    assert relative(got["head_means"], torch.stack([x.mean(1) for x in kept["mixed"]], 1).numpy()) <= 1e-11


@pytest.mark.parametrize("opset", [20, 23])
def test_gates_of_heads_and_blocks_multiply_what_they_add(case, opset):
    source, model, pixels, embedding, kept = case
    vision, random = source.config.vision, np.random.default_rng(1)
    heads = random.choice([0, 0.3, 1], (2, vision.layers, vision.heads))
    blocks = random.choice([0, 0.6, 1], (2, vision.layers, 2))
    values = random.standard_normal((vision.layers, vision.width))
    given = open_gates(source, pixels, head_gates=heads, block_gates=blocks, head_values=values)
    got = evaluate(built(source, opset=opset), given)
    for image in range(2):
        with torch.no_grad():
            first = kept["input"][0][image : image + 1]
            expected = gated_trace(model, first, heads[image], values, blocks[image])
        for name, wanted in zip(("embedding", "head_means", "features"), expected, strict=True):
            assert relative(got[name][image], wanted.numpy()) <= 1e-11, name
    assert relative(got["embedding"], embedding) > 1e-2


def test_a_shut_patch_is_as_good_as_not_there(case):
    """The class token of a sequence without the patch: nobody attends to it, so it need not be there at all."""
    source, model, pixels, embedding, kept = case
    patches = source.config.vision.grid[0] * source.config.vision.grid[1]
    gates = np.random.default_rng(2).integers(0, 2, (2, patches)).astype(np.float64)
    with np.errstate(divide="ignore"):  # log 0 is minus infinity, as it should be
        got = evaluate(built(source), open_gates(source, pixels, token_gates=gates))
    for image in range(2):
        there = torch.from_numpy(np.concatenate([[True], gates[image] > 0]))
        with torch.no_grad():
            x = kept["input"][0][image : image + 1, there]
            for block in model.visual.transformer.resblocks:
                x = block(x)
            alone = F.normalize(model.visual.ln_post(x[:, 0]) @ model.visual.proj, dim=-1)
        assert relative(got["embedding"][image], alone[0].numpy()) <= 1e-11
    assert relative(got["embedding"], embedding) > 1e-2


def test_a_gate_between_multiplies_attention(case):
    """A patch of gate 2 counts as two copies of it."""
    source, model, pixels, _, kept = case
    gates = np.ones((2, source.config.vision.grid[0] * source.config.vision.grid[1]))
    gates[:, 3] = 2
    got = evaluate(built(source), open_gates(source, pixels, token_gates=gates))
    with torch.no_grad():
        x = torch.cat([kept["input"][0], kept["input"][0][:, 4:5]], dim=1)
        for block in model.visual.transformer.resblocks:
            x = block(x)
        twice = F.normalize(model.visual.ln_post(x[:, 0]) @ model.visual.proj, dim=-1).numpy()
    assert relative(got["embedding"], twice) <= 1e-11


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_exported_it_runs_and_passes_its_parity_check(tmp_path, precision):
    manifest = export_bundle(tiny_source(), tmp_path / "gates", ExportOptions(signals=("gates",), precision=precision))
    assert "gates" in manifest.groups
    assert manifest.parity["gates"].keys() == {"embedding", "head_means", "features"}
    session = open_session(Bundle.open(tmp_path / "gates"), "gates", CpuOptions(1))
    rng = np.random.default_rng(0)
    given = open_gates(tiny_source(), rng.random((3, 3, 32, 32)))
    run = session.run({name: array.astype(np.float32) for name, array in given.items()}, ["embedding"])
    assert np.linalg.norm(run.outputs["embedding"], axis=1) == pytest.approx(1, abs=1e-5)
