"""multiscale against the eager sequence of torch, after a gate.

``pytest benchmarks/kernels/test_multiscale.py``, on a machine with a GPU with ``-m ""`` for the kernel.

Shapes are B/16 at 224 pixels. A GPU is to run it faster than the eager sequence; not measured on a GPU yet. On the CPU
the definition in NumPy and the eager sequence are timed, the kernel is not: the interpreter's time means nothing. The
figure to compare with there is the time of an explanation, of which this step should be a few percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from eyeshine_kernels.multiscale import MultiscaleOptions, multiscale

HAS_GPU = torch.cuda.is_available()
GRID, CHANNELS = (14, 14), 768
OPTIONS = {"resolution": MultiscaleOptions(), "literal": MultiscaleOptions(form="literal")}
# [B, K, P]: one image, one and four blocks, one and ten prompts; on a GPU a batch, too.
SHAPES = [(1, 1, 1), (1, 1, 10), (1, 4, 1), (1, 4, 10), *([(64, 4, 10)] if HAS_GPU else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def eager(queries: torch.Tensor, base: torch.Tensor, options: MultiscaleOptions) -> torch.Tensor:
    """The maps as a user writes them in torch, batched over images, blocks and prompts, equal layer weights."""
    images, blocks, patches, channels = queries.shape
    if options.form == "literal":
        level = torch.zeros(images, patches, device=base.device)
        for scale in options.scales:
            f = functional.normalize(queries.float() * scale, dim=-1)
            weighted = f @ f.mT / math.sqrt(channels) * math.log(1 + math.e)
            level = level + weighted.mean(-1).mean(1)
        return base * (1 + options.alpha * torch.sigmoid(level[:, None]))
    centred = queries.float() - queries.float().mean(2, keepdim=True)
    image = centred.mT.reshape(images * blocks, channels, *GRID)
    share = (base / base.sum(-1, keepdim=True)).reshape(images, -1, *GRID)
    level = torch.zeros_like(base)
    for size in options.cells(GRID):
        f = functional.normalize(functional.interpolate(image, size, mode="area").flatten(2), dim=1)
        relations = (f.mT @ f / options.temperature).softmax(-1).reshape(images, blocks, *[math.prod(size)] * 2)
        evidence = functional.interpolate(share, size, mode="area").flatten(2).mT[:, None]
        spread = (relations @ evidence).mT.reshape(images * blocks, -1, *size)
        spread = functional.interpolate(spread, GRID, mode="bilinear").reshape(images, blocks, -1, patches)
        deviation, mean = torch.std_mean(spread, -1, correction=0, keepdim=True)
        scores = torch.where(deviation > 0.01 * mean, (spread - mean) / deviation, 0)
        level = level + scores.mean(1) / len(options.scales)
    return base * (1 + options.alpha * torch.sigmoid(options.beta * level))


def inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [B, K, N, D] of the dtype and a base map [B, P, N], float32, where the kernels run."""
    generator = torch.Generator().manual_seed(0)
    images, blocks, prompts = shape
    device = "cuda" if HAS_GPU else "cpu"
    queries = torch.randn(images, blocks, math.prod(GRID), CHANNELS, generator=generator)
    base = torch.randn(images, prompts, math.prod(GRID), generator=generator).relu().mul(1e-3)
    return queries.to(device, dtype), base.to(device)


def on_device(call: Callable[[], object]) -> Callable[[], object]:
    """The call and the wait for its end."""

    def waited() -> object:
        result = call()
        if HAS_GPU:
            torch.cuda.synchronize()
        return result

    return waited


def record(benchmark: Any, queries: torch.Tensor, base: torch.Tensor) -> None:
    """Say what has to be moved at least: each input read once, maps and S written once."""
    benchmark.extra_info["least_bytes"] = queries.nbytes + 3 * base.nbytes
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if HAS_GPU else "cpu; not measured on a GPU"


def gate(maps: torch.Tensor, queries: torch.Tensor, base: torch.Tensor, form: str, tolerance: float) -> None:
    """Nothing is timed that is wrong: the first two images against the definition in float64."""
    arrays = [tensor[:2].double().cpu().numpy() for tensor in (queries, base)]
    expected = multiscale(*arrays, grid=GRID, options=OPTIONS[form]).maps
    assert np.abs(maps[:2].cpu().numpy() - expected).max() <= tolerance * expected.max()


@pytest.mark.parametrize("form", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiscale_reference(benchmark: Any, shape: tuple[int, int, int], form: str) -> None:
    """NumPy, float32."""
    queries, base = (tensor.cpu() for tensor in inputs(shape, torch.float32))
    record(benchmark, queries, base)
    arrays = queries.numpy(), base.numpy()
    gate(torch.from_numpy(multiscale(*arrays, grid=GRID, options=OPTIONS[form]).maps), queries, base, form, 1e-5)
    benchmark(lambda: multiscale(*arrays, grid=GRID, options=OPTIONS[form]))


@pytest.mark.parametrize("form", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiscale_eager(benchmark: Any, shape: tuple[int, int, int], form: str) -> None:
    """The eager sequence, float32, on the GPU where there is one."""
    queries, base = inputs(shape, torch.float32)
    record(benchmark, queries, base)
    # torch may choose tf32 for a product: a yardstick of time, not of accuracy.
    gate(eager(queries, base, OPTIONS[form]), queries, base, form, 5e-2)
    benchmark(on_device(lambda: eager(queries, base, OPTIONS[form])))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiscale_copy(benchmark: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """A copy of the queries, by far the most of the bytes: the bandwidth to compare with."""
    queries, base = inputs(shape, dtype)
    record(benchmark, queries, base)
    target = torch.empty_like(queries)
    benchmark(on_device(lambda: target.copy_(queries)))


@pytest.mark.gpu
@pytest.mark.parametrize("form", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiscale_triton(benchmark: Any, shape: tuple[int, int, int], dtype: torch.dtype, form: str) -> None:
    """The kernel."""
    queries, base = inputs(shape, dtype)
    record(benchmark, queries, base)
    shared: dict[str, Any] = {"grid": GRID, "options": OPTIONS[form], "backend": "triton"}
    gate(multiscale(queries, base, **shared).maps, queries, base, form, 1e-5)
    benchmark(on_device(lambda: multiscale(queries, base, **shared)))
