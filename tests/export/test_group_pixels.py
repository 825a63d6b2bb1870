"""The group "pixels": the gradient of the cosine with respect to RGB in 0..1, against autograd through open_clip."""

import numpy as np
import pytest
import torch

from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.pixels import pixels_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.groups.pixels import PIXELS
from eyeshine_export.oracle import Oracle
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import cosines, evaluate, relative
from tiny import arrays, tiny_config, tiny_model, tiny_source

SHAPES = {
    "plain": {},
    "LayerScale": {"vision": {"ls_init_value": 0.1}, "quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True, "image_size": [16, 40]}},
    "tall patch": {"vision": {"image_size": [36, 24], "patch_size": [12, 4]}},
    "patch does not divide": {"vision": {"image_size": [35, 29]}},
    "two blocks": {"vision": {"layers": 2}},
    "tanh": {"vision": {"act_kwargs": {"approximate": "tanh"}, "image_size": 16}},
    "one block": {"vision": {"layers": 1}},
    "five heads of six": {"vision": {"width": 30, "head_width": 6}},
}


def graph_of(source, opset=23):
    config, normalisation = source.config, source.normalisation
    weights = vision_weights(arrays(source), config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    return pixels_graph(config, weights, form=Form(opset, dtype=np.float64))


def inputs_of(source, images=2, prompts=3, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.random((images, 3, *source.config.vision.image_size))
    return {"pixels": pixels, "text": 3 * random.standard_normal((prompts, source.config.embed_dim))}


def autograd(raw, source, inputs):
    """[B, P, 3, Y, X], one backward pass for every image and text, through open_clip's own ``encode_image``."""
    model, normalisation = tiny_model(raw).double(), source.normalisation
    mean, std = (torch.tensor(x, dtype=torch.float64).reshape(3, 1, 1) for x in (normalisation.mean, normalisation.std))
    text, result = torch.from_numpy(inputs["text"]), []
    for image in inputs["pixels"]:
        leaf = torch.from_numpy(image).requires_grad_()
        similarity = cosines(model.encode_image(((leaf - mean) / std)[None]), text)[0]
        result.append(torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in similarity]))
    return torch.stack(result).numpy()


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_autograd(shape, opset):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source)
    expected = autograd(raw, source, inputs)
    assert relative(evaluate(graph_of(source, opset), inputs)["pixel_gradient"], expected) <= 1e-11
    (case,) = PIXELS.cases(Oracle.of(source), {}, inputs)
    assert relative(case.expected["pixel_gradient"], expected) <= 1e-6  # the oracle rounds to float32


def test_pixels_that_fill_no_patch_have_no_gradient():
    source = tiny_source(tiny_config(**SHAPES["patch does not divide"]))
    gradient = evaluate(graph_of(source), inputs_of(source))["pixel_gradient"]
    assert gradient.shape == (2, 3, 3, 35, 29)
    assert (gradient[..., 32:, :] == 0).all()
    assert (gradient[..., 24:] == 0).all()
    assert (gradient[..., :32, :24] != 0).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("opset", [20, 23])
def test_the_exported_graph_agrees_for_one_and_several_images_and_texts(tmp_path, opset, precision):
    """Export checks B in (1, 3) and P in (1, 5) and writes nothing that disagrees; here, that it was checked."""
    options = ExportOptions(opset=opset, precision=precision, signals=("pixels",))
    manifest = export_bundle(tiny_source(), tmp_path / "tiny", options)
    allowed = {"fp32": 1e-5, "fp16": 1e-2, "int8": 1e-1}[precision]
    assert manifest.graphs["pixels"].outputs.keys() == manifest.parity["pixels"].keys()
    assert 0 < manifest.parity["pixels"]["pixel_gradient"] <= allowed


def test_the_gradient_follows_image_and_text():
    source = tiny_source()
    graph, one, other = graph_of(source), inputs_of(source, seed=1), inputs_of(source, seed=2)
    first = evaluate(graph, one)["pixel_gradient"]
    assert relative(evaluate(graph, {**one, "pixels": other["pixels"]})["pixel_gradient"], first) > 0.1
    assert relative(evaluate(graph, {**one, "text": other["text"]})["pixel_gradient"], first) > 0.1
