"""The groups "rollout" and "relevance": the class row of products over all blocks, against whole matrices multiplied.

The oracles here are open_clip's own modules and loops that follow the papers' recursions, whole matrices at a time.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, open_session
from eyeshine.errors import ExportError, SignalError
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.products import chefer_graph, rollout_graph
from eyeshine_export.graph.weights import vision_weights
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
    "one block": {"vision": {"layers": 1}},
    "two blocks": {"vision": {"layers": 2}},
}


def built(source, make, dtype=np.float64, opset=23):
    normalisation, config = source.normalisation, source.config
    weights = vision_weights(
        arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std
    )
    return make(config, weights, Form(opset, dtype=dtype))


def inputs_of(source, images, targets, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.random((images, 3, *source.config.vision.image_size))
    return pixels, 3 * random.standard_normal((targets, source.config.embed_dim))


def traced(raw, source, pixels):
    shown = normalised(pixels, source.normalisation.mean, source.normalisation.std).requires_grad_()
    return trace(tiny_model(raw).double(), shown)


def rolled_out(raw, source, pixels):
    """Abnar and Zuidema's recursion, image by image."""
    embedding, kept = traced(raw, source, pixels)
    means = torch.stack(kept["attention"], 1).mean(2).detach().numpy()
    rows = np.empty((*means.shape[:2], means.shape[2] - 1))
    for image, own in enumerate(means):
        for start in range(len(own)):
            joint = np.eye(own.shape[-1])
            for attention in own[start:]:
                step = attention + np.eye(len(attention))
                joint = (step / step.sum(1, keepdims=True)) @ joint
            rows[image, start] = joint[0, 1:]
    return {"embedding": F.normalize(embedding, dim=-1).detach().numpy(), "rollout": rows, "attention_mean": means}


def relevance(raw, source, pixels, target):
    """Chefer et al.'s R <- R + mean_h ReLU(dA * A) R, image by image and target by target."""
    embedding, kept = traced(raw, source, pixels)
    unit = F.normalize(embedding, dim=-1)
    depth, length = len(kept["attention"]), kept["attention"][0].shape[-1]
    rows = np.empty((len(pixels), len(target), depth, length - 1))
    for image in range(len(pixels)):
        for index, vector in enumerate(torch.from_numpy(target)):
            gradients = torch.autograd.grad(unit[image] @ vector, kept["attention"], retain_graph=True)
            for start in range(depth):
                whole = torch.eye(length, dtype=torch.float64)
                for block in range(start, depth):
                    product = (gradients[block][image] * kept["attention"][block][image].detach()).relu().mean(0)
                    whole = whole + product @ whole
                rows[image, index, start] = whole[0, 1:].numpy()
    return {"embedding": unit.detach().numpy(), "chefer_relevance": rows}


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    errors = {name: relative(got[name], expected[name]) for name in got}
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_rollout_in_float64_is_the_product_of_whole_matrices(shape, opset):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    pixels, _ = inputs_of(source, 2, 1)
    got = evaluate(built(source, rollout_graph, opset=opset), {"pixels": pixels})
    assert_close(got, rolled_out(raw, source, pixels), 1e-11)
    assert got["rollout"].min() > 0
    assert got["rollout"].sum(-1).max() < 1


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_relevance_in_float64_is_the_recursion_over_whole_matrices(shape, opset):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    pixels, target = inputs_of(source, 2, 3)
    got = evaluate(built(source, chefer_graph, opset=opset), {"pixels": pixels, "target": target})
    assert_close(got, relevance(raw, source, pixels, target), 1e-11)


@pytest.mark.parametrize(("images", "targets"), [(1, 1), (1, 5), (3, 1), (3, 5)])
def test_onnxruntime_float32_with_dynamic_images_and_targets(images, targets):
    raw = tiny_config(**SHAPES["LayerScale"])
    source = tiny_source(raw)
    pixels, target = (array.astype(np.float32) for array in inputs_of(source, images, targets))
    got = run_onnxruntime(built(source, rollout_graph, np.float32), {"pixels": pixels})
    assert_close(got, rolled_out(raw, source, pixels), 1e-4)
    got = run_onnxruntime(built(source, chefer_graph, np.float32), {"pixels": pixels, "target": target})
    assert_close(got, relevance(raw, source, pixels, target.astype(np.float64)), 1e-4)


def test_a_targets_length_and_sign_matter():
    """Terms of second order grow with its square, and what speaks against a text is not what speaks for it."""
    source = tiny_source()
    pixels, target = inputs_of(source, 1, 1)
    graph = built(source, chefer_graph)
    rows = {
        scale: evaluate(graph, {"pixels": pixels, "target": scale * target})["chefer_relevance"][0, 0]
        for scale in (1, 30, -1)
    }
    assert relative(rows[30][-1] / 30, rows[1][-1]) <= 1e-12  # one block: of first order alone
    assert relative(rows[30][0] / 30, rows[1][0]) > 1e-3
    assert relative(rows[-1], rows[1]) > 0.1


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def bundle(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("products") / request.param
    export_bundle(tiny_source(), folder, ExportOptions(signals=("rollout", "relevance"), precision=request.param))
    return Bundle.open(folder)


def test_a_bundle_with_the_groups_follows_the_image_and_the_target(bundle):
    random = np.random.default_rng(0)
    pixels = random.random((2, 3, 32, 32), dtype=np.float32)
    target = random.standard_normal((2, 24)).astype(np.float32)
    rolled = open_session(bundle, "rollout", CpuOptions()).run({"pixels": pixels}, ["rollout"]).outputs["rollout"]
    session = open_session(bundle, "chefer", CpuOptions())
    found = session.run({"pixels": pixels, "target": target}, ["chefer_relevance"]).outputs["chefer_relevance"]
    assert (rolled.shape, found.shape) == ((2, 4, 16), (2, 2, 4, 16))
    assert min(relative(rolled[1, s], rolled[0, s]) for s in range(4)) > 0.02
    assert min(relative(found[1, :, s], found[0, :, s]) for s in range(4)) > 0.02
    assert relative(found[:, 1], found[:, 0]) > 0.1


def test_ordinary_calls_do_not_run_them(bundle):
    assert bundle.cheapest(frozenset({"similarity"})) == "image"
    assert bundle.cheapest(frozenset({"class_attention", "gradient"})) == "image"
    assert bundle.cheapest(frozenset({"rollout"})) == bundle.cheapest(frozenset({"attention_mean"})) == "rollout"
    assert bundle.cheapest(frozenset({"chefer_relevance"})) == "chefer"


def test_a_bundle_without_them_names_the_export_command(tmp_path):
    export_bundle(tiny_source(), tmp_path / "plain")
    opened = Bundle.open(tmp_path / "plain")
    for signal, group in (("rollout", "rollout"), ("attention_mean", "rollout"), ("chefer_relevance", "relevance")):
        with pytest.raises(SignalError, match=f"eyeshine export MODEL --signals {group} --out"):
            opened.cheapest(frozenset({signal}))


@pytest.mark.parametrize(("group", "signal"), [("rollout", "rollout"), ("relevance", "chefer_relevance")])
def test_a_wrong_product_is_not_exported(group, signal, tmp_path, monkeypatch):
    """The check against the oracle sees it: with the identity left out of the products, nothing is written."""
    from eyeshine_export.graph import products

    monkeypatch.setattr(products, "_class_token", lambda g, length: g.constant(np.zeros((1, length))))
    with pytest.raises(ExportError, match=f"disagrees with autograd in {signal}"):
        export_bundle(tiny_source(), tmp_path / "wrong", ExportOptions(signals=(group,)))
    assert not (tmp_path / "wrong").exists()
