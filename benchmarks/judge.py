"""From times to rows: percentiles, ratios, and whether the wanted limits are met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.gate import Facts
from benchmarks.memory import PeakMemory
from benchmarks.registry import CASES, COPY, ITS_P50, LIMITS, SECOND, Limit
from benchmarks.rows import Row
from benchmarks.timing import Timings

__all__ = ["memory_row", "missing_row", "timing_rows"]

_DIGITS = 4


def timing_rows(
    origin: Mapping[str, Any],
    model: str,
    group: str,
    timings: Timings,
    facts: Mapping[str, Facts],
    errors: Mapping[str, float],
    *,
    batch: int = 1,
    limits: Iterable[Limit] | None = None,
) -> list[Row]:
    """Rows of one group.

    Args:
        origin: run, machine, versions, commit, dirty, threads.
        model, group: short names.
        timings: of the cases; the first is what the others are compared with.
        facts: by name, of what was timed.
        errors: case -> relative error.
        batch: B.
        limits: wanted ratios; by default those of the model.
    """
    base = next(iter(timings.wall_ms))
    wanted = [x for x in (LIMITS.get(model, ()) if limits is None else limits) if x.batch in (None, batch)]
    rows = []
    for name in timings.wall_ms:
        case = facts[name]
        repeats = case.repeats
        p50_ms = timings.percentile_ms(name, 50) / repeats
        rows.append(
            Row(
                **origin,
                model=model,
                group=group,
                case=name,
                batch=batch,
                prompts=case.spec.prompts,
                engine=case.provider,
                precision=case.precision,
                bundle_hash=case.bundle_hash,
                rounds=timings.rounds,
                p50_ms=round(p50_ms, _DIGITS),
                p95_ms=round(timings.percentile_ms(name, 95) / repeats, _DIGITS),
                p99_ms=round(timings.percentile_ms(name, 99) / repeats, _DIGITS),
                min_ms=round(timings.percentile_ms(name, 0) / repeats, _DIGITS),
                images_per_second=round(1e3 * batch / p50_ms, 2),
                base=base,
                ratio=round(timings.ratio(name, base), _DIGITS),
                error=errors[name],
                bytes_moved=case.least_bytes,
                bandwidth=_bandwidth(name, timings, facts),
                **_limit(group, name, timings, facts, wanted),
            )
        )
    return rows


def _bandwidth(case: str, timings: Timings, facts: Mapping[str, Facts]) -> float | None:
    """Bytes per second over the copy's."""

    def speed(name: str) -> float:
        least_bytes = facts[name].least_bytes
        assert least_bytes is not None
        return least_bytes * facts[name].repeats / timings.percentile_ms(name, 50)

    if "copy" not in timings.wall_ms or facts[case].least_bytes is None:
        return None
    return round(speed(case) / speed("copy"), _DIGITS)


def _limit(
    group: str, case: str, timings: Timings, facts: Mapping[str, Facts], limits: Iterable[Limit]
) -> dict[str, Any]:
    """The fields of a case's limit. A tail is judged where it is measured, by two sessions in turn."""
    for limit in limits:
        if limit.case != case or (limit.over == ITS_P50) != (group == "turns"):
            continue
        if limit.over == ITS_P50:
            compared = timings.percentile_ms(case, 99) / timings.percentile_ms(case, 50)
        elif limit.over == SECOND:
            compared = timings.percentile_ms(case, 50) / 1e3
        elif limit.over == COPY and (bandwidth := _bandwidth(case, timings, facts)) is not None:
            compared = bandwidth
        elif limit.over in timings.wall_ms:
            compared = timings.ratio(case, limit.over)
        else:
            continue
        holds = limit.holds(compared)
        return {
            "over": limit.over,
            "compared": round(compared, _DIGITS),
            "bound": round(limit.bound, 4),
            "holds": holds,
        }
    return {}


def missing_row(
    origin: Mapping[str, Any],
    model: str,
    group: str,
    case: str,
    note: str,
    *,
    batch: int = 1,
    precision: str | None = None,
) -> Row:
    """The row of a case without figures."""
    prompts = CASES[case].prompts
    return Row(
        **origin, model=model, group=group, case=case, batch=batch, prompts=prompts, precision=precision, note=note
    )


def memory_row(origin: Mapping[str, Any], model: str, memory: PeakMemory, bundle_hash: str) -> Row:
    """The row of a process that explains one image."""
    return Row(
        **origin,
        model=model,
        group="memory",
        case="memory",
        batch=1,
        prompts=1,
        bundle_hash=bundle_hash,
        rounds=1,
        compared=round(memory.peak_bytes / memory.limit_bytes, _DIGITS),
        bound=1.0,
        holds=memory.holds,
        peak_bytes=memory.peak_bytes,
        weights_bytes=memory.weights_bytes,
    )
