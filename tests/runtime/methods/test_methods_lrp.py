"""AttnLRP and CP-LRP: relevance of patches from an exported bundle, against a tower with detached pieces."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.methods import METHODS
from eyeshine_export.groups.lrp_reference import lrp_reference
from eyeshine_export.oracle import Oracle
from oracle import relative
from tiny import tiny_source

NAMES = ["attnlrp", "cplrp"]
TEXTS = ["a red car", "the dog"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_an_exported_bundle_are_sums_of_gradient_times_input(explainer, name):
    image, info = photo(1), explainer.bundle.manifest.model
    result = explainer.explain(image, TEXTS, method=name)
    pixels = explainer.preprocess.prepare(image).pixels
    oracle, text = Oracle.of(tiny_source()), explainer.encode_texts(TEXTS)
    found = lrp_reference(oracle, pixels[None], text, through_attention=name == "attnlrp")
    (rows, columns), (high, wide) = result.patch_grid, info.patch_size
    for p in range(2):
        relevance = found["gradient"][0, p] * (pixels - np.reshape(info.mean, (3, 1, 1)))
        expected = [
            relevance[:, y * high : (y + 1) * high, x * wide : (x + 1) * wide].sum()
            for y in range(rows)
            for x in range(columns)
        ]
        assert relative(result.maps[0, p].reshape(-1), np.array(expected)) <= 1e-4
    assert result.engine["graph"] == name


@pytest.mark.parametrize("name", NAMES)
def test_the_map_changes_with_image_and_text(explainer, name):
    one, other = (explainer.explain(photo(seed), TEXTS, method=name).maps for seed in (1, 2))
    assert relative(other, one) > 0.1
    assert relative(one[:, 1], one[:, 0]) > 0.1


def test_the_two_rule_sets_differ(explainer):
    attention, constant = (explainer.explain(photo(1), TEXTS, method=METHODS[name]).maps for name in NAMES)
    assert relative(attention, constant) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_difference_of_texts_has_the_difference_of_the_relevances(explainer, name):
    whole = explainer.explain(photo(1), TEXTS, method=name).maps
    against = explainer.explain(photo(1), TEXTS, method=name, against="rest").maps
    assert relative(against[:, 0], whole[:, 0] - whole[:, 1]) <= 1e-4
