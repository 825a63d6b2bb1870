"""The groups "legrad" and "gradcam" against autograd on open_clip's own modules, formula by formula."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, open_session
from eyeshine.errors import ExportError, SignalError
from eyeshine_export.graph.gradcam import gradcam_graph
from eyeshine_export.graph.legrad import legrad_graph
from eyeshine_export.graph.ops import Form
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
}


def built(source, make, *arguments, dtype=np.float64, opset=23):
    normalisation, config = source.normalisation, source.config
    weights = vision_weights(
        arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std
    )
    return make(config, weights, *arguments, Form(opset, dtype=dtype))


def inputs_of(source, images, prompts, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.random((images, 3, *source.config.vision.image_size))
    return pixels, 3 * random.standard_normal((prompts, source.config.embed_dim))


def traced(raw, source, pixels):
    model = tiny_model(raw).double()
    shown = normalised(pixels, source.normalisation.mean, source.normalisation.std).requires_grad_()
    return model, *trace(model, shown)


def legrad(raw, source, pixels, target, layers):
    """Block by block and target by target, heads and query rows in loops."""
    model, embedding, kept = traced(raw, source, pixels)
    visual, images = model.visual, len(pixels)
    length = kept["output"][0].shape[1]
    found = np.zeros((images, len(target), layers, length - 1))
    for k, (tokens, attention) in enumerate(zip(kept["output"][-layers:], kept["attention"][-layers:], strict=True)):
        unit = F.normalize(visual.ln_post(tokens.mean(1)) @ visual.proj, dim=-1)
        for p, vector in enumerate(torch.from_numpy(target)):
            (gradient,) = torch.autograd.grad((unit @ vector).sum(), attention, retain_graph=True)
            for per_head in gradient.transpose(0, 1):
                for rows in per_head.transpose(0, 1):
                    found[:, p, k] += rows.relu()[:, 1:].numpy() / (attention.shape[1] * length)
    return {"embedding": F.normalize(embedding, dim=-1).detach().numpy(), "legrad": found}


def grad_cam(raw, source, pixels, text):
    """Channel by channel: the mean gradient of a channel times the channel."""
    _, embedding, kept = traced(raw, source, pixels)
    cosines = F.cosine_similarity(embedding[:, None], torch.from_numpy(text)[None], dim=-1)
    normed, before = kept["normed"][-1], kept["input"][-1]
    patches = normed.shape[1] - 1
    found = {name: np.zeros((len(pixels), len(text), patches)) for name in ("grad_cam", "grad_cam_input")}
    for p in range(len(text)):
        by_normed, by_before = torch.autograd.grad(cosines[:, p].sum(), (normed, before), retain_graph=True)
        for channel in range(normed.shape[2]):
            weight = by_normed[:, 1:, channel].sum(1, keepdim=True) / patches
            found["grad_cam"][:, p] += (weight * normed[:, 1:, channel]).detach().numpy()
            weight = by_before[:, :, channel].sum(1, keepdim=True) / (patches + 1)
            found["grad_cam_input"][:, p] += (weight * before[:, 1:, channel]).detach().numpy()
    unit = F.normalize(embedding, dim=-1).detach().numpy()
    return {"embedding": unit, "similarity": cosines.detach().numpy(), **found}


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    errors = {name: relative(got[name], expected[name]) for name in got}
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize(("layers", "opset"), [(1, 23), (2, 20), (4, 23)])
@pytest.mark.parametrize("shape", SHAPES)
def test_legrad_in_float64_equals_autograd(shape, layers, opset):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    pixels, target = inputs_of(source, 2, 3)
    got = evaluate(built(source, legrad_graph, layers, opset=opset), {"pixels": pixels, "target": target})
    assert_close(got, legrad(raw, source, pixels, target, layers), 1e-11)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", [*SHAPES, "one block"])
def test_grad_cam_in_float64_equals_autograd(shape, opset):
    raw = tiny_config(**SHAPES.get(shape, {"vision": {"layers": 1}}))
    source = tiny_source(raw)
    pixels, text = inputs_of(source, 2, 3)
    got = evaluate(built(source, gradcam_graph, opset=opset), {"pixels": pixels, "text": text})
    assert_close(got, grad_cam(raw, source, pixels, text / np.linalg.norm(text, axis=1, keepdims=True)), 1e-11)


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 5), (3, 1), (3, 5)])
def test_onnxruntime_float32_with_dynamic_images_and_texts(images, prompts):
    raw = tiny_config(**SHAPES["LayerScale"])
    source = tiny_source(raw)
    pixels, text = (array.astype(np.float32) for array in inputs_of(source, images, prompts))
    exact = text.astype(np.float64)
    got = run_onnxruntime(built(source, legrad_graph, 3, dtype=np.float32), {"pixels": pixels, "target": text})
    assert_close(got, legrad(raw, source, pixels, exact, 3), 1e-4)
    got = run_onnxruntime(built(source, gradcam_graph, dtype=np.float32), {"pixels": pixels, "text": text})
    assert_close(got, grad_cam(raw, source, pixels, exact), 1e-4)


def test_legrad_scales_with_its_target_and_no_block_looks_at_another():
    source = tiny_source()
    pixels, target = inputs_of(source, 1, 2)
    deep = evaluate(built(source, legrad_graph, 4), {"pixels": pixels, "target": target})["legrad"]
    longer = evaluate(built(source, legrad_graph, 4), {"pixels": pixels, "target": 7 * target})["legrad"]
    shallow = evaluate(built(source, legrad_graph, 2), {"pixels": pixels, "target": target})["legrad"]
    assert relative(longer, 7 * deep) <= 1e-12
    assert relative(shallow, deep[:, :, 2:]) <= 1e-12


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def bundle(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers") / request.param
    options = ExportOptions(layers=2, signals=("legrad", "gradcam"), precision=request.param)
    export_bundle(tiny_source(), folder, options)
    return Bundle.open(folder)


def test_a_bundle_with_the_groups_follows_the_image_and_the_text(bundle):
    random = np.random.default_rng(0)
    pixels = random.random((2, 3, 32, 32), dtype=np.float32)
    text = random.standard_normal((2, 24)).astype(np.float32)
    session = open_session(bundle, "legrad", CpuOptions())
    found = session.run({"pixels": pixels, "target": text}, ["legrad"]).outputs["legrad"]
    session = open_session(bundle, "gradcam", CpuOptions())
    cams = session.run({"pixels": pixels, "text": text}, ["grad_cam", "grad_cam_input"]).outputs
    assert (found.shape, cams["grad_cam"].shape) == ((2, 2, 2, 16), (2, 2, 16))
    for maps in (found[:, :, 0], found[:, :, 1], cams["grad_cam"], cams["grad_cam_input"]):
        assert relative(maps[1], maps[0]) > 0.02
        assert relative(maps[:, 1], maps[:, 0]) > 0.1


def test_ordinary_calls_do_not_run_them(bundle):
    assert bundle.cheapest(frozenset({"similarity"})) == "image"
    assert bundle.cheapest(frozenset({"legrad"}), 2) == "legrad"
    assert bundle.cheapest(frozenset({"grad_cam"})) == "gradcam"
    with pytest.raises(SignalError, match="--layers 3 --signals legrad"):
        bundle.cheapest(frozenset({"legrad"}), 3)


def test_a_wrong_gradient_is_not_exported(tmp_path, monkeypatch):
    """The check against autograd sees a block's MLP that is left out on the way back."""
    from eyeshine_export.graph import vjp

    monkeypatch.setattr(vjp.Vjp, "norm", lambda self, cotangent, normed: self.g.mul(cotangent, normed.inverse))
    for group in ("legrad", "gradcam"):
        with pytest.raises(ExportError, match="disagrees with autograd"):
            export_bundle(tiny_source(), tmp_path / "wrong", ExportOptions(signals=(group,)))
    assert not (tmp_path / "wrong").exists()
