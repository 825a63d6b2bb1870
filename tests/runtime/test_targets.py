"""Targets: linear combinations of prompts."""

from __future__ import annotations

import numpy as np
import pytest

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
