"""Methods on torch tensors, with the Triton kernels, give what they give on NumPy arrays; on a CPU interpreted."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from eyeshine.methods import BlockSignals, GradEclip, HeadDecomposition, Mmel, MmelLiteral
from oracle import relative

METHODS = [
    GradEclip(layers=2),
    GradEclip(layers=2, similarity="combined"),
    GradEclip(layers=2, mode="paper-code"),
    Mmel(layers=2, rho=0.1, layer_weights=(0.5, -0.5)),
    Mmel(layers=2, features="queries"),
    Mmel(layers=2, select_scales="complexity"),
    MmelLiteral(layers=2),
    MmelLiteral(layers=2, transform="random"),
    HeadDecomposition(layers=2),
    HeadDecomposition(layers=2, over_prompts=True, signed=True),
]


def random_signals() -> BlockSignals:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    attention = np.exp(normal(2, 2, 2, 13))
    return BlockSignals(
        grid=(3, 4),
        depth=4,
        keys=normal(2, 2, 13, 8),
        values=normal(2, 2, 13, 8),
        queries=normal(2, 2, 12, 8),
        spatial_weights=random.random((2, 2, 12), np.float32),
        spatial_weights_out=random.random((2, 2, 12), np.float32),
        class_attention=attention / attention.sum(-1, keepdims=True),
        gradient=normal(2, 3, 2, 8),
        target=normal(3, 6),
        head_projection=normal(2, 8, 6),
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_maps_on_the_device_are_those_on_the_host(method):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    signals = random_signals()
    arrays = {field.name: getattr(signals, field.name) for field in fields(signals)}
    tensors = {name: torch.from_numpy(a).to(device) for name, a in arrays.items() if isinstance(a, np.ndarray)}
    got = method.maps(replace(signals, backend="triton", **tensors), 3)
    assert got.shape == (2, 3, 12)
    assert got.device.type == device
    assert relative(got.cpu().numpy(), method.maps(signals, 3)) <= 1e-5
