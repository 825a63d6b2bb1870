"""Result rows: one JSON object per model, group and case, with everything that a figure depends on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

__all__ = ["CPU_ROWS", "GPU_ROWS", "Row", "append", "newest", "read"]

_RESULTS: Final = Path(__file__).parent / "results"
CPU_ROWS: Final = _RESULTS / "cpu.jsonl"
GPU_ROWS: Final = _RESULTS / "gpu.jsonl"


@dataclass(frozen=True)
class Row:
    """One case that was measured, or that was not (then ``note`` says why and the figures are None).

    Attributes:
        run: when it was started, UTC; the same for all rows of a run.
        machine: CPU, CPUs, memory, operating system, load before the run, GPUs with driver (``environment``).
        versions: of Python and the libraries.
        commit, dirty: of the sources; whether there were changes to them.
        model: short name.
        group: cases that ran side by side.
        case: a key of ``registry.CASES``, or "memory".
        batch, prompts: B and P.
        engine: what ran it, as it names itself.
        precision: of its arithmetic.
        threads: of every engine on the CPU; None on a GPU.
        bundle_hash: of the bundle that it read; None without one.
        rounds: counted rounds.
        p50_ms, p95_ms, p99_ms, min_ms: over the rounds, of the whole batch.
        images_per_second: at the median.
        base, ratio: the group's first case, and the median of the per-round ratio to it.
        over: what the limit compares with; None without a limit.
        compared: ratio to that; for memory peak / limit.
        bound, holds: the limit, and whether it is met.
        error: largest relative error against the oracle.
        bytes_moved: least bytes that it can move: every input once, every output once.
        bandwidth: those bytes per second over a copy's, 0..1.
        launches, device_ms: kernels of one call, and the time that they take on the GPU.
        peak_bytes, weights_bytes: memory only.
        note: why there is no figure, or what is special about it.
    """

    run: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    model: str
    group: str
    case: str
    batch: int
    prompts: int
    engine: str | None = None
    precision: str | None = None
    threads: int | None = None
    bundle_hash: str | None = None
    rounds: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    min_ms: float | None = None
    images_per_second: float | None = None
    base: str | None = None
    ratio: float | None = None
    over: str | None = None
    compared: float | None = None
    bound: float | None = None
    holds: bool | None = None
    error: float | None = None
    bytes_moved: int | None = None
    bandwidth: float | None = None
    launches: float | None = None
    device_ms: float | None = None
    peak_bytes: int | None = None
    weights_bytes: int | None = None
    note: str | None = None


def append(rows: Iterable[Row], path: Path) -> None:
    """Append rows to a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """All rows of a file, oldest first, none where there is no file; fields of later versions are left out."""
    if not path.is_file():
        return []
    known = {field.name for field in fields(Row)}
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    rows = [Row(**{key: value for key, value in line.items() if key in known}) for line in lines]
    return sorted(rows, key=lambda row: row.run)


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of every model the rows of its newest run."""
    listed = list(rows)
    last = {row.model: row.run for row in sorted(listed, key=lambda row: row.run)}
    return [row for row in listed if row.run == last[row.model]]
