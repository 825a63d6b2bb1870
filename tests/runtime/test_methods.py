"""Attribution methods against slow loops over heads, patches and channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeshine.errors import OptionError
from eyeshine.methods import METHODS, Attention, BlockSignals, Chefer, GradEclip, get_method


def random_signals(seed: int, images: int, prompts: int, heads: int, depth: int, patches: int) -> BlockSignals:
    random = np.random.default_rng(seed)
    width, tokens = heads * depth, patches + 1

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    attention = np.exp(normal(images, 1, heads, tokens))
    return BlockSignals(
        class_query=normal(images, 1, width),
        keys=normal(images, 1, tokens, width),
        values=normal(images, 1, tokens, width),
        spatial_weights=random.random((images, 1, patches), dtype=np.float32),
        class_attention=attention / attention.sum(-1, keepdims=True),
        gradient=normal(images, prompts, 1, width),
    )


shapes = st.tuples(
    st.integers(0, 99), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(2, 7)
)


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_grad_eclip_is_relu_of_lambda_times_gradient_times_value(shape):
    signals = random_signals(*shape)
    got = GradEclip().maps(signals, shape[2])
    for b in range(shape[1]):
        for p in range(shape[2]):
            for i in range(shape[5]):
                evidence = sum(
                    float(g) * float(v)
                    for g, v in zip(signals.gradient[b, p, 0], signals.values[b, 0, i + 1], strict=True)
                )
                assert got[b, p, i] == pytest.approx(
                    signals.spatial_weights[b, 0, i] * max(evidence, 0), rel=1e-3, abs=1e-5
                )


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_chefer_is_the_mean_over_heads_of_relu_of_attention_times_its_gradient(shape):
    _, images, prompts, heads, depth, patches = shape
    signals = random_signals(*shape)
    got = Chefer().maps(signals, prompts)
    for b in range(images):
        for p in range(prompts):
            for i in range(patches):
                total = 0.0
                for h in range(heads):
                    channels = slice(h * depth, (h + 1) * depth)
                    u = float(signals.gradient[b, p, 0, channels].astype(float) @ signals.values[b, 0, i + 1, channels])
                    total += max(float(signals.class_attention[b, 0, h, i + 1]) * u, 0)
                assert got[b, p, i] == pytest.approx(total / heads, rel=1e-4, abs=1e-6)


def test_attention_is_the_mean_over_heads_and_the_same_for_every_prompt():
    signals = random_signals(0, 2, 3, 4, 2, 5)
    got = Attention().maps(BlockSignals(class_attention=signals.class_attention), 3)
    assert got.shape == (2, 3, 5)
    assert np.allclose(got[:, 1], signals.class_attention[:, 0, :, 1:].mean(1))
    assert (got[:, 0] == got[:, 2]).all()


def test_without_lambda_every_patch_weighs_the_same():
    signals = random_signals(3, 1, 2, 2, 4, 6)
    plain = np.einsum("bpd,bnd->bpn", signals.gradient[:, :, 0], signals.values[:, 0, 1:])
    assert np.allclose(GradEclip(spatial=False).maps(signals, 2), np.maximum(plain, 0), atol=1e-5)


@pytest.mark.parametrize("name", ["grad_eclip", "chefer"])
def test_no_evidence_gives_zeros(name):
    signals = random_signals(2, 2, 2, 2, 3, 4)
    nothing = replace(signals, gradient=np.zeros_like(signals.gradient))
    maps = METHODS[name].maps(nothing, 2)
    assert maps.shape == (2, 2, 4)
    assert (maps == 0).all()


def test_registry_is_by_name_and_unknown_names_list_what_there_is():
    assert all(name == method.name for name, method in METHODS.items())
    assert get_method("chefer") is METHODS["chefer"]
    mine = GradEclip(spatial=False)
    assert get_method(mine) is mine
    with pytest.raises(OptionError, match=r"no_cam.*grad_eclip, chefer, attention"):
        get_method("no_cam")


def test_a_method_without_its_signal_is_a_defect_that_names_it():
    with pytest.raises(TypeError, match="was not handed"):
        GradEclip().maps(BlockSignals(values=np.zeros((1, 1, 2, 2), np.float32)), 1)
