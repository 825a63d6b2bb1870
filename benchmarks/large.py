"""Kernels on shapes that fill a data-centre GPU, beside a plain copy: how much of the memory's bandwidth they reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.eager import synchronize
from benchmarks.gate import Array, Case, Facts
from benchmarks.registry import CaseSpec
from eyeshine_kernels.normalize import NormalizeOptions, normalize
from eyeshine_kernels.overlay import overlay
from eyeshine_kernels.upsample import upsample

__all__ = ["Shapes", "make"]

_GRID = 14, 14
_OVERLAY_TOLERANCE = 2.5 / 255  # the neighbouring level of heat (docs/numerics.md) under smooth colours


@dataclass(frozen=True)
class Shapes:
    """How large; the defaults are beyond the second-level cache of every GPU.

    Attributes:
        copy_bytes: of the copied buffer.
        rows: (B, P, N) of ``normalize``.
        pictures: (B, P, H, W) of ``upsample`` and ``overlay``, from ``_GRID``.
    """

    copy_bytes: int = 256 * 2**20
    rows: tuple[int, int, int] = (64, 1000, 729)
    pictures: tuple[int, int, int, int] = (64, 10, 480, 640)


def make(spec: CaseSpec, shapes: Shapes, device: str, repeats: int) -> Case:
    """A case of the kind "large"; its oracle is the kernel's definition in NumPy, on the last rows or picture.

    Args:
        spec: which kernel, or the copy.
        shapes: how large.
        device: torch's name of where it runs.
        repeats: calls for one time; the device is waited for after the last.
    """
    kinds = {"copy": _copy, "normalize": _normalize, "upsample": _upsample, "overlay": _overlay}
    work = kinds[spec.name](shapes, device)

    def run() -> None:
        for _ in range(repeats):
            work.compute()
        synchronize(device)

    def probe() -> Mapping[str, Array]:
        return {"out": work.look(work.compute()).cpu().numpy()}

    provider = f"{'torch' if spec.name == 'copy' else 'Triton'} {device}"
    facts = Facts(spec, provider, repeats=repeats, least_bytes=work.read_bytes + work.compute().nbytes)
    return Case(facts, run, probe, lambda: {"out": work.expected()}, work.tolerance)


@dataclass(frozen=True)
class _Work:
    """One kernel on its inputs.

    Attributes:
        compute: one call.
        look: the part of its result that is compared.
        expected: the oracle's, in NumPy.
        read_bytes: of the inputs.
        tolerance: in place of that of fp32.
    """

    compute: Callable[[], torch.Tensor]
    look: Callable[[torch.Tensor], torch.Tensor]
    expected: Callable[[], Array]
    read_bytes: int
    tolerance: float | None = None


def _copy(shapes: Shapes, device: str) -> _Work:
    source = torch.arange(shapes.copy_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    wanted = np.arange(shapes.copy_bytes // 4, dtype=np.float32)[-1000:]
    return _Work(lambda: target.copy_(source), lambda result: result[-1000:], lambda: wanted, source.nbytes)


def _normalize(shapes: Shapes, device: str) -> _Work:
    gradient = _random(shapes.rows, device)
    options = NormalizeOptions(beta=1, relu=False, epsilon=1e-30)  # as eyeshine.device
    return _Work(
        lambda: normalize(gradient, options=options, backend="triton"),
        lambda heat: heat[-1:, -8:],
        lambda: normalize(gradient[-1:, -8:].cpu().numpy().astype(np.float64), options=options),
        gradient.nbytes,
    )


def _upsample(shapes: Shapes, device: str) -> _Work:
    images, prompts, height, width = shapes.pictures
    maps = _random((images, prompts, *_GRID), device)
    return _Work(
        lambda: upsample(maps, (height, width), backend="triton"),
        lambda heat: heat[-1:, -1:],
        lambda: upsample(maps[-1:, -1:].cpu().numpy(), (height, width)),
        maps.nbytes,
    )


def _overlay(shapes: Shapes, device: str) -> _Work:
    images, prompts, height, width = shapes.pictures
    maps = _random((images, prompts, *_GRID), device)
    random = torch.Generator().manual_seed(1)
    photos = torch.randint(0, 256, (images, height, width, 3), generator=random, dtype=torch.uint8).to(device)
    # Smooth, as colour maps are: a pixel at the edge of two levels is then off by a level's difference, not by 255.
    ramp = torch.arange(256, dtype=torch.uint8, device=device)
    colours = torch.stack([ramp, ramp.flip(0), ramp], dim=1).contiguous()

    def expected() -> Array:
        last = (tensor.cpu().numpy() for tensor in (photos[-1:], maps[-1:, -1:], colours, ramp))
        return overlay(*last).astype(np.float32)

    return _Work(
        lambda: overlay(photos, maps, colours, ramp, backend="triton"),
        lambda pictures: pictures[-1:, -1:].float(),
        expected,
        photos.nbytes + maps.nbytes + colours.nbytes + ramp.nbytes,
        _OVERLAY_TOLERANCE,
    )


def _random(shape: tuple[int, ...], device: str) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
