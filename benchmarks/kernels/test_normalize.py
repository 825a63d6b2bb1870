"""normalize against the eager sequence of torch, after a gate.

``pytest benchmarks/kernels/test_normalize.py``, on a machine with a GPU with ``-m ""`` for the kernel.

The figure to reach on a GPU is 70 % of copy bandwidth on the large shapes; not measured on a GPU yet. On the CPU the
definition in NumPy and the eager sequence are timed, the kernel is not: the interpreter's time means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from eyeshine_kernels.normalize import NormalizeOptions, normalize

OPTIONS = NormalizeOptions(background=0.2)
HAS_GPU = torch.cuda.is_available()
# [B, P, N]: one image and 10 prompts for B/16; a batch of 64; on a GPU 1000 prompts on 27x27 (187 MB in fp32), too.
SHAPES = [(1, 10, 196), (64, 10, 196), *([(64, 1000, 729)] if HAS_GPU else [])]


def eager(gradient: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The same result as a user writes it in torch: a dozen launches, each reading and writing all of it."""

    def min_max(values: torch.Tensor) -> torch.Tensor:
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        return (values - low) / (high - low + OPTIONS.epsilon)

    boosted = min_max(gradient.float().relu()) ** (1 / OPTIONS.beta)
    heat = (1 - OPTIONS.alpha) * min_max(attention.float()) + OPTIONS.alpha * boosted
    return torch.where(heat > OPTIONS.background * heat.amax(-1, keepdim=True), heat, 0).to(gradient.dtype)


def inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient [B, P, N] and attention [B, 1, N] where the kernels run."""
    generator = torch.Generator().manual_seed(0)
    images, _, patches = shape
    device = "cuda" if HAS_GPU else "cpu"
    gradient = torch.randn(shape, generator=generator).mul(1e-2)
    attention = torch.randn(images, 1, patches, generator=generator).mul(3).softmax(-1)
    return gradient.to(device, dtype), attention.to(device, dtype)


def on_device(call: Callable[[], object]) -> Callable[[], object]:
    """The call and the wait for its end."""

    def waited() -> object:
        result = call()
        if HAS_GPU:
            torch.cuda.synchronize()
        return result

    return waited


def record(benchmark: Any, gradient: torch.Tensor, attention: torch.Tensor) -> None:
    """Say what has to be moved at least: each input read once, the output written once."""
    benchmark.extra_info["least_bytes"] = 2 * gradient.nbytes + attention.nbytes
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if HAS_GPU else "cpu; not measured on a GPU"


def gate(heat: torch.Tensor, gradient: torch.Tensor, attention: torch.Tensor) -> None:
    """Nothing is timed that is wrong: up to 16 rows against the definition, but for values at the threshold."""
    rows = slice(0, 2), slice(0, 8)
    expected = normalize(gradient[rows].float().cpu().numpy(), attention[:2].float().cpu().numpy(), options=OPTIONS)
    wrong = np.abs(heat[rows].float().cpu().numpy() - expected) > 8e-3
    assert wrong.mean() < 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalize_reference(benchmark: Any, shape: tuple[int, int, int]) -> None:
    """NumPy, float32."""
    gradient, attention = (tensor.cpu() for tensor in inputs(shape, torch.float32))
    record(benchmark, gradient, attention)
    arrays = gradient.numpy(), attention.numpy()
    benchmark(lambda: normalize(*arrays, options=OPTIONS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalize_eager(benchmark: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """The eager sequence, on the GPU where there is one."""
    gradient, attention = inputs(shape, dtype)
    record(benchmark, gradient, attention)
    gate(eager(gradient, attention), gradient, attention)
    benchmark(on_device(lambda: eager(gradient, attention)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalize_copy(benchmark: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """A copy of the gradient: the bandwidth to compare with."""
    gradient, attention = inputs(shape, dtype)
    record(benchmark, gradient, attention)
    target = torch.empty_like(gradient)
    benchmark(on_device(lambda: target.copy_(gradient)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalize_triton(benchmark: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """The kernel."""
    gradient, attention = inputs(shape, dtype)
    record(benchmark, gradient, attention)
    gate(normalize(gradient, attention, options=OPTIONS, backend="triton"), gradient, attention)
    benchmark(on_device(lambda: normalize(gradient, attention, options=OPTIONS, backend="triton")))
