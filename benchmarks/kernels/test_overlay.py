"""overlay against the eager sequence of torch, after a gate.

``pytest benchmarks/kernels/test_overlay.py``, on a machine with a GPU with ``-m ""`` for the kernel.

The figure to reach on a GPU is 70 % of copy bandwidth on the large shapes; not measured on a GPU yet. On the CPU the
definition in NumPy and the eager sequence are timed, the kernel is not: the interpreter's time means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

from eyeshine_kernels.overlay import overlay

HAS_GPU = torch.cuda.is_available()
# [B, P, H, W] from 14 x 14: a photograph and 10 prompts; a batch; on a GPU 4K with 64 prompts (1.6 GB), too.
SHAPES = [(1, 10, 480, 640), (16, 1, 224, 224), *([(1, 64, 2160, 3840)] if HAS_GPU else [])]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)
MUTE = 0.5

Shape: TypeAlias = tuple[int, int, int, int]
Inputs: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def eager(images: torch.Tensor, maps: torch.Tensor, colours: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """The same result as a user writes it in torch: each step reads and writes floats of the pictures' size."""
    heat = torch.nn.functional.interpolate(maps, images.shape[1:3], mode="bilinear", align_corners=False)
    level = (heat * 255).round().clamp(0, 255).long()
    photo = images.float()
    grey = photo @ photo.new_tensor([0.299, 0.587, 0.114])
    muted = torch.lerp(photo, grey[..., None].expand_as(photo), MUTE)[:, None]
    strength = strengths[level].float()[..., None] / 255
    return (muted + strength * (colours[level].float() - muted)).round().to(torch.uint8)


def inputs(shape: Shape) -> Inputs:
    """Images, maps in 0..1 from 14 x 14 and both look-up tables, where the kernels run."""
    generator = torch.Generator().manual_seed(0)
    count, prompts, height, width = shape
    images = torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)
    maps = torch.rand(count, prompts, 14, 14, generator=generator)
    colours = torch.randint(0, 256, (256, 3), generator=generator, dtype=torch.uint8)
    strengths = torch.linspace(0, 255, 256).round().to(torch.uint8)
    device = "cuda" if HAS_GPU else "cpu"
    return images.to(device), maps.to(device), colours.to(device), strengths.to(device)


def on_device(call: Callable[[], object]) -> Callable[[], object]:
    """The call and the wait for its end."""

    def waited() -> object:
        result = call()
        if HAS_GPU:
            torch.cuda.synchronize()
        return result

    return waited


def record(benchmark: Any, given: Inputs) -> None:
    """Say what has to be moved at least: each input read once, the pictures written once."""
    pictures = given[0].nbytes * given[1].shape[1]
    benchmark.extra_info["least_bytes"] = sum(tensor.nbytes for tensor in given) + pictures
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if HAS_GPU else "cpu; not measured on a GPU"


def gate(pictures: torch.Tensor, given: Inputs) -> None:
    """Nothing is timed that is wrong: the last picture against the definition, but for heat at the edge of a level."""
    images, maps, colours, strengths = (tensor.cpu().numpy() for tensor in given)
    expected = overlay(images[-1:], maps[-1:, -1:], colours, strengths, mute=MUTE)
    wrong = np.abs(pictures[-1:, -1:].cpu().numpy() - expected.astype(int)) > 2
    assert wrong.mean() < 1e-3


@EVERY_SHAPE
def test_overlay_reference(benchmark: Any, shape: Shape) -> None:
    """NumPy, float32 maps."""
    given = inputs(shape)
    record(benchmark, given)
    images, maps, colours, strengths = (tensor.cpu().numpy() for tensor in given)
    benchmark(lambda: overlay(images, maps, colours, strengths, mute=MUTE))


@EVERY_SHAPE
def test_overlay_eager(benchmark: Any, shape: Shape) -> None:
    """The eager sequence, on the GPU where there is one."""
    given = inputs(shape)
    record(benchmark, given)
    gate(eager(*given), given)
    benchmark(on_device(lambda: eager(*given)))


@pytest.mark.gpu
@EVERY_SHAPE
def test_overlay_copy(benchmark: Any, shape: Shape) -> None:
    """A copy of as many pictures: the bandwidth to compare with (it reads as much again as it writes)."""
    given = inputs(shape)
    record(benchmark, given)
    source = torch.zeros((*shape, 3), dtype=torch.uint8, device=given[0].device)
    target = torch.empty_like(source)
    benchmark(on_device(lambda: target.copy_(source)))


@pytest.mark.gpu
@EVERY_SHAPE
def test_overlay_triton(benchmark: Any, shape: Shape) -> None:
    """The kernel."""
    given = inputs(shape)
    record(benchmark, given)
    gate(overlay(*given, mute=MUTE, backend="triton"), given)
    benchmark(on_device(lambda: overlay(*given, mute=MUTE, backend="triton")))
