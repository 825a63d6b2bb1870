"""Kernels of one call, counted by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.gate import Case
from benchmarks.registry import LAUNCHES
from benchmarks.rows import Row

__all__ = ["count", "with_launches"]


def count(call: Callable[[], object]) -> tuple[int, float] | None:
    """How many kernels, copies and fills a call puts on the GPU, and the milliseconds that they take there.

    None where the profiler saw none: it is not allowed to look, or there is no GPU.
    """
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        return None
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    on_gpu = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    if not on_gpu:
        return None
    return len(on_gpu), sum(event.time_range.elapsed_us() for event in on_gpu) / 1e3


def with_launches(row: Row, case: Case) -> Row:
    """The row with launches and time on the GPU of one call; where launches are limited, they count for the limit."""
    found = count(case.run)
    if found is None:
        return row
    launches, device_ms = found[0] / case.facts.repeats, found[1] / case.facts.repeats
    holds = row.holds
    if holds is not None and row.case in LAUNCHES:
        holds = holds and launches <= LAUNCHES[row.case]
    return replace(row, launches=round(launches, 2), device_ms=round(device_ms, 4), holds=holds)
