"""Result rows: one JSON object per model, group and case, with everything that a figure depends on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.memory import PeakMemory
from benchmarks.registry import CASES, LIMITS
from benchmarks.timing import Timings

__all__ = ["RESULTS", "Row", "append", "memory_row", "newest", "read", "timing_rows"]

RESULTS = Path(__file__).parent / "results"
_DIGITS = 4


@dataclass(frozen=True)
class Row:
    """One measured case.

    Attributes:
        run: when it was started, UTC; the same for all rows of a run.
        machine, versions, commit, dirty: where it comes from (``environment``).
        bundle_hash: of the exported bundle.
        model: short name.
        group: cases that ran side by side.
        case: a key of ``registry.CASES``, or "memory".
        batch, prompts: B and P.
        threads: of every engine.
        rounds: counted rounds.
        median_ms, p99_ms, min_ms: of the case; None for memory.
        ratio: median of the per-round ratio to the plain encoder of the same group.
        over: the case that the limit compares with; None without a limit.
        compared: ratio to that case; for memory peak / limit.
        bound, holds: the limit, and whether it is met.
        error: largest relative error against autograd.
        peak_bytes, weights_bytes: memory only.
    """

    run: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    bundle_hash: str
    model: str
    group: str
    case: str
    batch: int
    prompts: int
    threads: int
    rounds: int = 1
    median_ms: float | None = None
    p99_ms: float | None = None
    min_ms: float | None = None
    ratio: float | None = None
    over: str | None = None
    compared: float | None = None
    bound: float | None = None
    holds: bool | None = None
    error: float | None = None
    peak_bytes: int | None = None
    weights_bytes: int | None = None


def timing_rows(
    origin: Mapping[str, Any], model: str, group: str, timings: Timings, errors: Mapping[str, float]
) -> list[Row]:
    """Rows of one group.

    Args:
        origin: run, machine, versions, commit, dirty, bundle_hash, threads.
        model, group: short names.
        timings: of all cases of the group, the plain encoder among them.
        errors: case -> relative error.
    """
    rows = []
    for case in timings.wall_ms:
        limit = next((x for x in LIMITS.get(model, ()) if x.case == case and x.over in timings.wall_ms), None)
        compared = None if limit is None else timings.ratio(case, limit.over)
        rows.append(
            Row(
                **origin,
                model=model,
                group=group,
                case=case,
                batch=1,
                prompts=CASES[case].prompts,
                rounds=timings.rounds,
                median_ms=round(timings.median_ms(case), _DIGITS),
                p99_ms=round(timings.p99_ms(case), _DIGITS),
                min_ms=round(timings.min_ms(case), _DIGITS),
                ratio=round(timings.ratio(case, "plain"), _DIGITS),
                over=None if limit is None else limit.over,
                compared=None if compared is None else round(compared, _DIGITS),
                bound=None if limit is None else limit.bound,
                holds=None if limit is None or compared is None else limit.holds(compared),
                error=errors[case],
            )
        )
    return rows


def memory_row(origin: Mapping[str, Any], model: str, memory: PeakMemory) -> Row:
    """The row of a process that explains one image."""
    return Row(
        **origin,
        model=model,
        group="memory",
        case="memory",
        batch=1,
        prompts=1,
        compared=round(memory.peak_bytes / memory.limit_bytes, _DIGITS),
        bound=1.0,
        holds=memory.holds,
        peak_bytes=memory.peak_bytes,
        weights_bytes=memory.weights_bytes,
    )


def append(rows: Iterable[Row], folder: Path = RESULTS) -> Path:
    """Append rows to the results."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cpu.jsonl"
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")
    return path


def read(folder: Path = RESULTS) -> list[Row]:
    """All rows, oldest first; fields of later versions are left out."""
    known = {field.name for field in fields(Row)}
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            rows.append(Row(**{key: value for key, value in json.loads(line).items() if key in known}))
    return sorted(rows, key=lambda row: row.run)


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of every model the rows of its newest run."""
    listed = list(rows)
    last = {row.model: row.run for row in sorted(listed, key=lambda row: row.run)}
    return [row for row in listed if row.run == last[row.model]]
