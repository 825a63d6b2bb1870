"""relevance, timed with pytest-benchmark: ``python -m pytest benchmarks/kernels``, on hardware with ``-m gpu``.

Shapes are the last block of B/16 at 224 pixels. Each case is compared with the reference. Not measured on a GPU yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from eyeshine_kernels.relevance import PRESETS, relevance

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

HEADS, DEPTH, PATCHES = 12, 64, 196
RELATIVE = {"float32": 1e-5, "float16": 1e-5}


def inputs(preset: str, images: int, prompts: int) -> dict[str, Any]:
    """Random float32 signals of one block: gradient [B, P, 1, D], values [B, 1, T, D], attention [B, 1, H, T]."""
    random = np.random.default_rng(0)
    tokens, width = PATCHES + 1, HEADS * DEPTH
    named: dict[str, Any] = {
        "gradient": random.standard_normal((images, prompts, 1, width), np.float32),
        "values": random.standard_normal((images, 1, tokens, width), np.float32),
        "patch_weights": random.random((images, 1, PATCHES), np.float32),
    }
    if PRESETS[preset].attention_power:
        named["attention"] = random.random((images, 1, HEADS, tokens), np.float32) / tokens
    return named


def eager(named: dict[str, Tensor], preset: str) -> Tensor:
    """The same map as a sequence of torch operators, what the kernel has to beat."""
    options = PRESETS[preset]
    images, prompts, blocks, _ = named["gradient"].shape
    gradient = named["gradient"].view(images, prompts, blocks, HEADS, DEPTH).permute(0, 2, 3, 1, 4)
    values = named["values"][:, :, 1:].reshape(images, blocks, PATCHES, HEADS, DEPTH).permute(0, 1, 3, 4, 2)
    evidence = (gradient @ values).float()
    if "attention" in named:
        evidence = evidence * named["attention"][:, :, :, None, 1:]
    if options.head_relu:
        evidence = evidence.relu()
    total = evidence.sum(2) * options.scale(HEADS)
    if not options.signed:
        total = total.relu()
    return (total * named["patch_weights"][:, :, None]).permute(0, 2, 1, 3).contiguous()


@pytest.mark.parametrize("preset", ["grad_eclip", "chefer"])
@pytest.mark.parametrize("prompts", [1, 10, 100])
def test_reference(benchmark: BenchmarkFixture, preset: str, prompts: int) -> None:
    """NumPy on the CPU, one image."""
    named = inputs(preset, 1, prompts)
    double: dict[str, Any] = {name: array.astype(np.float64) for name, array in named.items()}
    expected = relevance(**double, heads=HEADS, options=preset)
    got = benchmark(relevance, **named, heads=HEADS, options=preset)
    assert np.abs(got - expected).max() <= RELATIVE["float32"] * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("code", ["triton", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("preset", ["grad_eclip", "chefer"])
@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 10), (1, 100), (8, 10), (64, 10)])
def test_device(benchmark: BenchmarkFixture, code: str, dtype: str, preset: str, images: int, prompts: int) -> None:
    """The kernel and the eager sequence on a CUDA device, launch and wait included."""
    import torch

    kept = {"patch_weights": torch.float32}
    named = {
        name: torch.from_numpy(array).to("cuda", kept.get(name, getattr(torch, dtype)))
        for name, array in inputs(preset, images, prompts).items()
    }

    def run() -> Tensor:
        if code == "eager":
            got = eager(named, preset)
        else:
            got = relevance(**named, heads=HEADS, options=preset, backend="triton")
        torch.cuda.synchronize()
        return got

    got = run().cpu().numpy()
    double: dict[str, Any] = {name: tensor.double().cpu().numpy() for name, tensor in named.items()}
    expected = relevance(**double, heads=HEADS, options=preset)
    # The eager product of fp16 is rounded to fp16, and torch may choose tf32: a yardstick of time, not of accuracy.
    tolerance = RELATIVE[dtype] if code == "triton" else 5e-3
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()
    benchmark.extra_info["device"] = torch.cuda.get_device_name()
    benchmark.extra_info["bytes"] = got.nbytes + sum(tensor.nbytes for tensor in named.values())
    benchmark(run)
