"""Targets that the caller differentiates: the gradient of another model in the place of the graph's own."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.errors import ImageError, InputError, OptionError, TextError

TEXTS = ["a dog", "a red car"]
PHOTOS = [np.random.default_rng(k).integers(0, 256, (40, 50, 3), dtype=np.uint8) for k in range(2)]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def signals(explainer):
    """What the graph yields for both photos and texts."""
    pixels = np.stack([explainer.preprocess.prepare(photo).pixels for photo in PHOTOS])
    inputs = {"pixels": pixels, "text": explainer.encode_texts(TEXTS)}
    names = ["gradient", "values", "class_attention", "spatial_weights"]
    return explainer._session("image").run(inputs, names).outputs


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("method", ["grad_eclip", "chefer"])
def test_the_graphs_own_gradient_gives_the_same_maps(explainer, tiny_bundle, signals, method, backend):
    other = explainer if backend == "reference" else Explainer.load(tiny_bundle, threads=1, backend=backend)
    expected = explainer.explain(PHOTOS, TEXTS, method=method)
    values = expected.similarities
    for cotangents in (signals["gradient"], signals["gradient"][:, :, 0]):
        got = other.explain_cotangent(PHOTOS, cotangents, ["first", "second"], values, method=method)
        assert expected.maps.max() > 0
        assert np.abs(got.maps - expected.maps).max() <= 1e-4 * expected.maps.max()
        assert got.maps.dtype == np.float32
    assert np.array_equal(got.similarities, values)
    assert (got.texts, got.target, got.method) == (("first", "second"), "external cotangent", method)
    assert got.engine["backend"] == backend
    assert got.heatmaps().shape == (2, 2, 40, 50)
    assert got.record()["similarities"] == [round(float(value), 6) for value in values[0]]


def test_one_image_takes_cotangents_of_its_targets_alone(explainer, signals):
    expected = explainer.explain(PHOTOS[0], TEXTS)
    got = explainer.explain_cotangent(PHOTOS[0], signals["gradient"][0, :, 0], ["a", "b"], [0.5, -3.0])
    assert np.abs(got.maps - expected.maps).max() <= 1e-4 * expected.maps.max()
    assert got.similarities.tolist() == [[0.5, -3.0]]


def test_any_cotangent_is_the_formula_in_loops(explainer, signals):
    """mean_h ReLU(A_h <g_h, V_h>) and lambda ReLU(<g, V>), in float64, of a gradient that no text has."""
    g = np.random.default_rng(5).standard_normal((1, 32))
    eclip = explainer.explain_cotangent(PHOTOS[1], g, ["c"], [0.0]).maps.ravel().astype(float)
    chefer = explainer.explain_cotangent(PHOTOS[1], g, ["c"], [0.0], method="chefer").maps.ravel().astype(float)
    v, a, spatial = (signals[k][1, 0].astype(np.float64) for k in ("values", "class_attention", "spatial_weights"))
    heads = len(a)
    depth = 32 // heads
    for patch in range(len(eclip)):
        total, kept = 0.0, 0.0
        for h in range(heads):
            u = sum(g[0, h * depth + d] * v[patch + 1, h * depth + d] for d in range(depth))
            total += u
            kept += max(0.0, a[h, patch + 1] * u) / heads
        assert eclip[patch] == pytest.approx(spatial[patch] * max(0.0, total), rel=1e-4, abs=1e-4 * eclip.max())
        assert chefer[patch] == pytest.approx(kept, rel=1e-4, abs=1e-4 * chefer.max())
    assert eclip.max() > 0
    assert chefer.max() > 0


def test_a_head_on_top_of_the_tower_by_autograd(explainer):
    """A target that is no cosine: a logit of a little network on the embedding, differentiated by torch."""
    import torch

    from eyeshine_export.reference import explain_reference
    from tiny import tiny_config, tiny_source

    tiny = tiny_source(tiny_config())
    pixels = torch.from_numpy(explainer.preprocess.prepare(PHOTOS[0]).pixels[None])
    # cos(e, t) for t along each axis is e/|e| itself, so that autograd's gradients for them are the whole Jacobian.
    axes = torch.eye(24)
    norm = tiny.normalisation
    found = explain_reference(tiny.state, tiny.config, pixels, axes, 1, norm.mean, norm.std)
    unit = found["similarity"][0].detach().clone().requires_grad_(True)
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(16, 24, generator=random), torch.randn(16, generator=random)
    logit = torch.tanh(first @ unit * 3) @ second
    (upstream,) = torch.autograd.grad(logit, unit)
    cotangent = torch.einsum("e,ed->d", upstream, found["gradient"][0, :, 0]).numpy()
    got = explainer.explain_cotangent(PHOTOS[0], cotangent[None], ["logit"], [logit.item()])
    values, spatial = found["values"][0, 0, 1:].numpy(), found["spatial_weights"][0, 0].numpy()
    expected = spatial * np.maximum(values.astype(np.float64) @ cotangent, 0)
    assert expected.max() > 0
    assert np.abs(got.maps.ravel() - expected).max() <= 1e-4 * expected.max()


def test_methods_that_a_cotangent_is_not_enough_for(explainer):
    g = np.ones((1, 32))
    with pytest.raises(OptionError, match="attention reads no gradient of this model"):
        explainer.explain_cotangent(PHOTOS[0], g, ["c"], [0.0], method="attention")
    with pytest.raises(OptionError, match=r"concept_attribution reads head_projection, text"):
        explainer.explain_cotangent(PHOTOS[0], g, ["c"], [0.0], method="concept_attribution")


@pytest.mark.parametrize(
    ("cotangents", "names", "values", "error", "said"),
    [
        (
            np.ones((1, 31)),
            ["c"],
            [0.0],
            InputError,
            r"cotangents are of another shape; got \[1, 31\].*\[1, 1, 1, 32\]",
        ),
        (np.ones((2, 32)), ["c"], [0.0], InputError, "cotangents are of another shape"),
        (np.ones(32), ["c"], [0.0], InputError, "cotangents are of another shape"),
        (np.full((1, 32), np.nan), ["c"], [0.0], InputError, "cotangents are not finite"),
        (np.full((1, 32), 1e39), ["c"], [0.0], InputError, "cotangents are not finite"),
        ("gradient", ["c"], [0.0], InputError, "cotangents cannot be read .*got str"),
        (np.ones((1, 32)), ["c"], [0.0, 1.0], InputError, r"values are of another shape; got \[2\]"),
        (np.ones((1, 32)), ["c"], [np.inf], InputError, "values are not finite"),
        (np.ones((1, 32)), ["c"], None, InputError, "values"),
        (np.ones((1, 32)), [" "], [0.0], TextError, "blank"),
        (np.ones((1, 32)), "c", [0.0], TextError, "list"),
    ],
)
def test_what_is_no_cotangent_is_refused(explainer, cotangents, names, values, error, said):
    with pytest.raises(error, match=said):
        explainer.explain_cotangent(PHOTOS[0], cotangents, names, values)


def test_images_and_cotangents_go_together(explainer):
    with pytest.raises(InputError, match=r"got \[1, 32\]; allowed: \[2, 1, 1, 32\] or \[2, 1, 32\]"):
        explainer.explain_cotangent(PHOTOS, np.ones((1, 32)), ["c"], [[0.0], [0.0]])
    with pytest.raises(ImageError):
        explainer.explain_cotangent("no such file.png", np.ones((1, 32)), ["c"], [0.0])
