"""Targets: linear combinations of prompts."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.concept import ContrastOptions
from eyeshine.errors import OptionError
from eyeshine.targets import make_target


def gradient(prompts: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, prompts, 5)).astype(np.float32)


def test_the_text_alone_is_the_gradient_itself():
    target = make_target(["a", "b"], None)
    g = gradient(2)
    assert target.name == "text"
    assert target.prompts == ("a", "b")
    assert target.combine(g) is g


def test_rest_is_the_text_less_the_mean_of_the_others():
    g = gradient(3)
    got = make_target(["a", "b", "c"], "rest").combine(g)
    assert np.allclose(got[:, 1], g[:, 1] - (g[:, 0] + g[:, 2]) / 2, atol=1e-6)
    assert np.allclose(got.sum(1), 0, atol=1e-5)


def test_against_others_is_the_text_less_their_mean():
    target = make_target(["a", "b"], ["x", "y"])
    g = gradient(4)
    assert target.prompts == ("a", "b", "x", "y")
    assert np.allclose(target.combine(g)[:, 0], g[:, 0] - (g[:, 2] + g[:, 3]) / 2, atol=1e-6)
    assert "'x', 'y'" in target.name


def test_a_text_may_also_stand_in_against():
    target = make_target(["a", "b"], ["b", "c"])
    g = gradient(3)
    assert target.prompts == ("a", "b", "c")
    assert np.allclose(target.combine(g)[:, 1], g[:, 1] - (g[:, 1] + g[:, 2]) / 2, atol=1e-6)


def test_a_text_that_is_asked_for_twice_keeps_both_places():
    target = make_target(["a", "b", "a"], ["b", "c", "c"])
    g = gradient(4)
    assert target.prompts == ("a", "b", "a", "c")
    others = (g[:, 1] + 2 * g[:, 3]) / 3
    for row in range(3):
        assert np.allclose(target.combine(g)[:, row], g[:, row] - others, atol=1e-6)


@pytest.mark.parametrize("method", ["grad_eclip", "chefer_layers", "occlusion"])
@pytest.mark.parametrize("against", [["the sky"], ContrastOptions(candidates=["the sky", "a house"], top=1)])
def test_twice_the_same_text_is_explained_twice(tiny_bundle, method, against):
    explainer = Explainer.load(tiny_bundle, threads=1)
    photos = list(np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8))
    once = explainer.explain(photos, ["a red car", "a tree"], method=method, against=against)
    twice = explainer.explain(photos, ["a red car", "a red car", "a tree"], method=method, against=against)
    np.testing.assert_allclose(twice.similarities, once.similarities[:, [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(twice.maps, once.maps[:, [0, 0, 1]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "against", "said"),
    [
        (["a"], "rest", "needs another text"),
        (["a", "b"], "others", "list of texts"),
        (["a"], [], "empty"),
        (["a"], ["a"], "against itself"),
    ],
)
def test_what_makes_no_sense_is_refused(texts, against, said):
    with pytest.raises(OptionError, match=said):
        make_target(texts, against)
