"""Grad-ECLIP's spatial weights at their edges; elsewhere the graphs' are compared with autograd's model."""

import numpy as np
import pytest

from eyeshine_export.graph.explained import spatial_weights
from eyeshine_export.graph.ops import Form, Graph
from oracle import evaluate, relative, run_onnxruntime
from oracle import spatial_weights as slow

RANDOM = np.random.default_rng(0)
QUERY, KEYS = RANDOM.standard_normal((2, 3, 8)), RANDOM.standard_normal((2, 3, 6, 8))


def weights(query, keys, dtype=np.float64):
    g = Graph(Form(dtype=dtype))
    values = [g.input(name, list(array.shape)) for name, array in (("query", query), ("keys", keys))]
    g.output("out", spatial_weights(g, *values), [*query.shape[:2], keys.shape[2] - 1])
    run = evaluate if dtype is np.float64 else run_onnxruntime
    return run(g.model("small", ""), {"query": query.astype(dtype), "keys": keys.astype(dtype)})["out"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_they_are_the_slow_loops(dtype, tolerance):
    got = weights(QUERY, KEYS, dtype)
    assert relative(got, slow(QUERY, KEYS)) <= tolerance
    assert got.min(-1) == pytest.approx(0)
    assert got.max(-1) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_keys_give_zeros_and_not_the_noise_of_rounding(dtype):
    equal = np.repeat(KEYS[:, :, :1], 200, axis=2)
    noisy = equal * (1 + 1e-7 * RANDOM.standard_normal(equal.shape))
    assert (weights(QUERY, noisy, dtype) == 0).all()
    apart = equal * (1 + 1e-3 * RANDOM.standard_normal(equal.shape))
    assert weights(QUERY, apart, dtype).max() == pytest.approx(1)


def test_keys_and_queries_of_no_length_are_no_division_by_zero():
    assert (weights(QUERY, np.zeros_like(KEYS)) == 0).all()
    assert (weights(np.zeros_like(QUERY), KEYS) == 0).all()


def test_the_class_token_is_no_patch():
    first = KEYS.copy()
    first[:, :, 0] = 100 * QUERY
    assert np.array_equal(weights(QUERY, first), weights(QUERY, KEYS))


def test_a_key_that_is_no_number_is_not_hidden():
    broken = KEYS.copy()
    broken[0, 0, 3] = np.nan
    got = weights(QUERY, broken, np.float32)
    assert np.isnan(got[0, 0]).any()
    assert np.isfinite(got[1]).all()
