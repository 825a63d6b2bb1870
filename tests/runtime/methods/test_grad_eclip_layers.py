"""Grad-ECLIP over several blocks and with combined similarities, against autograd and slow loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.errors import OptionError, SignalError
from eyeshine.methods import BlockSignals, GradEclip
from eyeshine.methods.configure import configure
from eyeshine.methods.patch_similarity import combined_weights
from oracle import normalised, relative, signals
from tiny import tiny_config, tiny_model

TEXTS = ["a red car", "the dog"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def by_autograd(explainer: Explainer, image: np.ndarray, layers: int) -> dict[str, np.ndarray]:
    """The signals of the last blocks of open_clip's own model, float64."""
    info = explainer.bundle.manifest.model
    pixels = normalised(explainer.preprocess.prepare(image).pixels[None], info.mean, info.std)
    text = torch.from_numpy(explainer.encode_texts(TEXTS)).double()
    return signals(tiny_model(tiny_config()).double(), pixels, text, layers)


def slow_lambda(weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(lambda + minmax of the mean cosine with all patches, weighed by lambda) / 2 of one block: [N] and [T, D]."""
    count = len(weights)
    likeness = np.zeros(count)
    for i in range(count):
        for j in range(count):
            a, b = keys[1 + i], keys[1 + j]
            likeness[i] += weights[j] * float(a @ b) / np.sqrt(float(a @ a) * float(b @ b)) / weights.sum()
    return (weights + (likeness - likeness.min()) / (likeness.max() - likeness.min())) / 2


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("similarity", ["class", "combined"])
def test_maps_of_an_exported_bundle_are_autograds(explainer, layers, similarity):
    """E = sum over blocks of ReLU(lambda <g, V>): a ReLU for every block, before the sum."""
    image = photo(1)
    got = explainer.explain(image, TEXTS, method=GradEclip(layers=layers, similarity=similarity))
    found = by_autograd(explainer, image, layers)
    expected = np.zeros((2, 16))
    for p in range(2):
        for k in range(layers):
            weights = found["spatial_weights"][0, k]
            if similarity == "combined":
                weights = slow_lambda(weights, found["keys"][0, k])
            for i in range(16):
                evidence = float(found["gradient"][0, p, k] @ found["values"][0, k, 1 + i])
                expected[p, i] += max(weights[i] * evidence, 0)
    assert relative(got.maps[0].reshape(2, 16), expected) <= 1e-4
    assert got.engine["graph"] == ("image" if layers == 1 else "deep")


@pytest.mark.parametrize("settings", [{"layers": 3}, {"similarity": "combined"}, {"layers": 2, "spatial": False}])
def test_the_map_changes_with_the_image(explainer, settings):
    method = GradEclip(**settings)
    first, second = (explainer.explain(photo(seed), TEXTS, method=method).maps for seed in (1, 2))
    assert relative(first, second) > 0.1


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_combined_weights_are_the_slow_ones_for_both_kinds_of_array(kind):
    random = np.random.default_rng(0)
    weights, keys = random.random((2, 3, 7)), random.standard_normal((2, 3, 8, 5))
    given = (weights, keys) if kind == "numpy" else (torch.from_numpy(weights), torch.from_numpy(keys))
    got = np.asarray(combined_weights(*given))
    for b, k in np.ndindex(2, 3):
        np.testing.assert_allclose(got[b, k], slow_lambda(weights[b, k], keys[b, k]), atol=1e-9)


def test_combined_weights_of_equal_keys_and_of_no_lambda_are_half_of_lambda_and_a_nan_shows():
    weights = np.random.default_rng(1).random((1, 1, 6)).astype(np.float32)
    keys = np.tile(np.arange(1, 5, dtype=np.float32), (1, 1, 7, 1))
    np.testing.assert_array_equal(combined_weights(weights, keys), weights / 2)
    random = np.random.default_rng(2).standard_normal((1, 1, 7, 4)).astype(np.float32)
    np.testing.assert_array_equal(combined_weights(np.zeros_like(weights), random), np.zeros_like(weights))
    random[0, 0, 3, 1] = np.nan
    assert np.isnan(combined_weights(weights, random)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "paper"}, "unknown mode of Grad-ECLIP; got 'paper'; allowed: faithful, paper-code, notebook"),
        ({"similarity": "patch"}, "unknown similarity"),
        ({"similarity": "combined", "mode": "notebook"}, "changes lambda of the deployed model"),
        ({"similarity": "combined", "spatial": False}, "changes lambda of the deployed model"),
        ({"layers": 0}, "layers is a whole number; got 0; allowed: 1..64"),
        ({"layers": True}, "layers is a whole number; got True"),
        ({"spatial": 1}, "spatial is a truth value; got 1"),
    ],
)
def test_settings_outside_what_is_allowed_are_named(settings, message):
    with pytest.raises(OptionError, match=message):
        GradEclip(**settings)


def test_settings_from_names_and_blocks_that_the_bundle_lacks(explainer):
    method = configure("grad_eclip", {"layers": 4, "similarity": "combined"})
    assert method == GradEclip(layers=4, similarity="combined")
    with pytest.raises(SignalError, match=r"of 4 block\(s\).*--layers 4"):
        explainer.explain(photo(), TEXTS, method=method)


def test_a_signal_that_was_not_handed_over_is_a_defect_that_names_it():
    block = BlockSignals(
        values=np.ones((1, 1, 3, 2), np.float32),
        gradient=np.ones((1, 1, 1, 2), np.float32),
        spatial_weights=np.ones((1, 1, 2), np.float32),
    )
    with pytest.raises(TypeError, match="signal keys was not handed"):
        GradEclip(similarity="combined").maps(block, 1)
