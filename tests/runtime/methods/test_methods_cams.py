"""LeGrad, Grad-CAM, FM-G-CAM and attention Grad-CAM through a bundle, against autograd on open_clip's own modules."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine import Explainer
from eyeshine.concept import ContrastOptions
from eyeshine.errors import OptionError, SignalError
from eyeshine.images import load_image
from eyeshine.methods import AttentionGradCam, FmGCam, GradCam, LeGrad
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import normalised, relative, trace
from tiny import tiny_config, tiny_model, tiny_source

TEXTS = ["a red car", "the dog", "a tree"]
METHODS = ["legrad", "grad_cam", "fm_g_cam", "attention_grad_cam"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_config()).double()


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def traced(explainer, model, image):
    info = explainer.bundle.manifest.model
    pixels = explainer.preprocess.prepare(load_image(image)).pixels
    return trace(model, normalised(pixels[None], info.mean, info.std).requires_grad_())


def targets(explainer, against=()):
    """What the unit embedding is multiplied by: texts, less the mean of others."""
    own = explainer.encode_texts(TEXTS).astype(np.float64)
    return torch.from_numpy(own - explainer.encode_texts(against).astype(np.float64).mean(0) if against else own)


def legrad(explainer, model, image, target, layers):
    _, kept = traced(explainer, model, image)
    total = np.zeros(16)
    for tokens, attention in zip(kept["output"][-layers:], kept["attention"][-layers:], strict=True):
        pooled = F.normalize(model.visual.ln_post(tokens.mean(1)) @ model.visual.proj, dim=-1)[0]
        (gradient,) = torch.autograd.grad(pooled @ target, attention, retain_graph=True)
        total += gradient[0].relu().mean((0, 1))[1:].numpy()
    return total


def grad_cam(explainer, model, image, target, features):
    embedding, kept = traced(explainer, model, image)
    tokens = kept[features][-1]
    (gradient,) = torch.autograd.grad(F.normalize(embedding, dim=-1)[0] @ target, tokens)
    weights = gradient[0, 1:].mean(0) if features == "normed" else gradient[0].mean(0)
    return np.array([max(float(weights @ token), 0) for token in tokens[0, 1:].detach()])


def attention_grad_cam(explainer, model, image, target):
    embedding, kept = traced(explainer, model, image)
    attention = kept["attention"][-1]
    (gradient,) = torch.autograd.grad(F.normalize(embedding, dim=-1)[0] @ target, attention)
    weights = gradient[0, :, 0, 1:].mean(1)  # a weight for each head: the mean derivative over the patches
    rows = attention[0, :, 0, 1:].detach()
    return np.array([max(float(weights @ row) / 2, 0) for row in rows.T])


def assert_maps(found, expected):
    for own, wanted in zip(found, expected, strict=True):
        assert relative(own.reshape(-1), wanted) <= 1e-4


@pytest.mark.parametrize("against", [(), ("the sky", "a house")])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_legrad_is_that_of_autograd(explainer, model, layers, against):
    found = explainer.explain([photo(0), photo(1)], TEXTS, method=LeGrad(layers), against=list(against) or None)
    for index in range(2):
        wanted = [legrad(explainer, model, photo(index), t, layers) for t in targets(explainer, against)]
        assert_maps(found.maps[index], wanted)
    assert np.abs(found.similarities - explainer.explain([photo(0), photo(1)], TEXTS).similarities).max() <= 1e-6


@pytest.mark.parametrize("against", [(), ("the sky", "a house")])
@pytest.mark.parametrize("features", ["normed", "input"])
def test_grad_cam_is_that_of_autograd(explainer, model, features, against):
    found = explainer.explain([photo(0), photo(1)], TEXTS, method=GradCam(features), against=list(against) or None)
    for index in range(2):
        wanted = [grad_cam(explainer, model, photo(index), t, features) for t in targets(explainer, against)]
        assert_maps(found.maps[index], wanted)
    assert (found.maps > 0).any()


@pytest.mark.parametrize("against", [(), ("the sky", "a house")])
def test_attention_grad_cam_is_that_of_autograd(explainer, model, against):
    found = explainer.explain([photo(0), photo(1)], TEXTS, method=AttentionGradCam(), against=list(against) or None)
    for index in range(2):
        wanted = [attention_grad_cam(explainer, model, photo(index), t) for t in targets(explainer, against)]
        assert_maps(found.maps[index], wanted)
    assert (found.maps > 0).any()


@pytest.mark.parametrize("features", ["normed", "input"])
def test_fm_g_cam_gives_each_patch_to_one_text(explainer, model, features):
    found = explainer.explain([photo(0), photo(3)], TEXTS, method=FmGCam(features)).maps.reshape(2, 3, 16)
    for index, seed in enumerate((0, 3)):
        cams = np.stack([grad_cam(explainer, model, photo(seed), t, features) for t in targets(explainer)])
        wanted = np.zeros_like(cams)
        for patch in range(16):
            best = int(cams[:, patch].argmax())
            wanted[best, patch] = cams[best, patch]
        assert (wanted > 0).any()
        assert relative(found[index], wanted / np.sqrt((wanted**2).sum())) <= 1e-4
    assert ((found > 0).sum(1) <= 1).all()


def test_fm_g_cam_of_one_text_is_grad_cam(explainer):
    one = explainer.explain(photo(0), TEXTS[:1], method="fm_g_cam").maps
    plain = explainer.explain(photo(0), TEXTS[:1], method="grad_cam").maps
    assert relative(one, plain / np.linalg.norm(plain)) <= 1e-5


def test_no_evidence_gives_zeros():
    from eyeshine.methods import BlockSignals

    nothing = BlockSignals(grad_cam=-np.ones((2, 3, 4), np.float32))
    assert (FmGCam().maps(nothing, 3) == 0).all()
    assert (GradCam().maps(nothing, 3) == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_contrast_of_each_images_own_is_that_of_the_image_alone(explainer, method):
    options = ContrastOptions(candidates=["a dog", "a tree", "the sky", "a house"], top=1)
    photos = [photo(seed) for seed in range(3)]
    together = explainer.explain(photos, TEXTS, method=method, against=options)
    chosen = [tuple(choice.chosen for choice in of_image) for of_image in together.details["contrast"]]
    assert len(set(chosen)) > 1  # else one target would do for all
    for index, image in enumerate(photos):
        alone = explainer.explain(image, TEXTS, method=method, against=options)
        assert relative(together.maps[index], alone.maps[0]) <= 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="through Triton's interpreter, beside the engine for the CPU")
@pytest.mark.parametrize("method", [*METHODS, "rollout", "chefer_layers"])
def test_kernels_on_the_device_give_the_same(explainer, tiny_bundle, method):
    options = ContrastOptions(candidates=["a dog", "a tree", "the sky", "a house"], top=1)
    device = Explainer.load(tiny_bundle, threads=1, backend="triton")
    for against in (None,) if method == "rollout" else (None, "rest", options):
        found, wanted = (
            one.explain([photo(0), photo(1)], TEXTS, method=method, against=against) for one in (device, explainer)
        )
        assert relative(found.maps, wanted.maps) <= 1e-4
        assert np.abs(found.similarities - wanted.similarities).max() <= 1e-6
        assert found.engine["backend"] == "triton"


@pytest.mark.parametrize("method", METHODS)
def test_the_map_follows_image_and_text(explainer, method):
    maps = explainer.explain([photo(0), photo(1)], TEXTS, method=method).maps
    assert relative(maps[1], maps[0]) > 0.02
    assert relative(maps[:, 1], maps[:, 0]) > 0.02


def test_settings_check_themselves():
    for make in (lambda: LeGrad(0), lambda: LeGrad(2.0), lambda: GradCam("mlp"), lambda: FmGCam(None)):
        with pytest.raises(OptionError):
            make()


@pytest.mark.parametrize(
    ("method", "command"),
    [("legrad", "--layers 2 --signals legrad"), ("grad_cam", "--signals gradcam"), ("fm_g_cam", "--signals gradcam")],
)
def test_a_bundle_without_the_graphs_names_the_export_command(tmp_path_factory, method, command):
    folder = tmp_path_factory.mktemp("plain") / "plain"
    export_bundle(tiny_source(), folder, ExportOptions())
    with pytest.raises(SignalError, match=f"eyeshine export MODEL {command} --out FOLDER"):
        Explainer.load(folder, threads=1).explain(photo(0), TEXTS, method=method)
