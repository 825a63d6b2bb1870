"""upsample against torch's interpolate, after a gate.

``pytest benchmarks/kernels/test_upsample.py``, on a machine with a GPU with ``-m ""`` for the kernel.

The figure to reach on a GPU is 70 % of copy bandwidth on the large shapes; not measured on a GPU yet. On the CPU the
definition in NumPy and torch are timed, the kernel is not: the interpreter's time means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from eyeshine_kernels.upsample import upsample

HAS_GPU = torch.cuda.is_available()
# [B, P, H, W] from 14 x 14: a photograph and 10 prompts; a batch; on a GPU 4K with 64 prompts (2.1 GB in fp32), too.
SHAPES = [(1, 10, 480, 640), (16, 10, 224, 224), *([(1, 64, 2160, 3840)] if HAS_GPU else [])]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)


def eager(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The same result as a user writes it in torch."""
    return torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, tuple[int, int]]:
    """Maps [B, P, 14, 14] where the kernels run, and the size."""
    maps = torch.rand(*shape[:2], 14, 14, generator=torch.Generator().manual_seed(0))
    return maps.to("cuda" if HAS_GPU else "cpu", dtype), shape[2:]


def on_device(call: Callable[[], object]) -> Callable[[], object]:
    """The call and the wait for its end."""

    def waited() -> object:
        result = call()
        if HAS_GPU:
            torch.cuda.synchronize()
        return result

    return waited


def record(benchmark: Any, shape: tuple[int, int, int, int], maps: torch.Tensor) -> None:
    """Say what has to be moved at least: the maps read once, the output written once."""
    benchmark.extra_info["least_bytes"] = maps.nbytes + int(np.prod(shape)) * maps.itemsize
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if HAS_GPU else "cpu; not measured on a GPU"


def gate(heat: torch.Tensor, maps: torch.Tensor, size: tuple[int, int]) -> None:
    """Nothing is timed that is wrong: the last map against the definition."""
    expected = upsample(maps[-1:, -1:].double().cpu().numpy(), size)
    assert np.abs(heat[-1:, -1:].double().cpu().numpy() - expected).max() <= 8e-3


@EVERY_SHAPE
def test_upsample_reference(benchmark: Any, shape: tuple[int, int, int, int]) -> None:
    """NumPy, float32."""
    maps, size = inputs(shape, torch.float32)
    record(benchmark, shape, maps)
    array = maps.cpu().numpy()
    benchmark(lambda: upsample(array, size))


@DTYPES
@EVERY_SHAPE
def test_upsample_eager(benchmark: Any, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """torch, on the GPU where there is one."""
    maps, size = inputs(shape, dtype)
    record(benchmark, shape, maps)
    gate(eager(maps, size), maps, size)
    benchmark(on_device(lambda: eager(maps, size)))


@pytest.mark.gpu
@DTYPES
@EVERY_SHAPE
def test_upsample_copy(benchmark: Any, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """A copy of as many heat maps: the bandwidth to compare with (it reads as much again as it writes)."""
    maps, _ = inputs(shape, dtype)
    record(benchmark, shape, maps)
    source = torch.zeros(shape, dtype=dtype, device=maps.device)
    target = torch.empty_like(source)
    benchmark(on_device(lambda: target.copy_(source)))


@pytest.mark.gpu
@DTYPES
@EVERY_SHAPE
def test_upsample_triton(benchmark: Any, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """The kernel."""
    maps, size = inputs(shape, dtype)
    record(benchmark, shape, maps)
    gate(upsample(maps, size, backend="triton"), maps, size)
    benchmark(on_device(lambda: upsample(maps, size, backend="triton")))
