"""Measure and print: ``python -m benchmarks.run`` (``make bench``)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import environment, memory, report
from benchmarks.bundles import BenchModel, prepare
from benchmarks.cases import Bench
from benchmarks.gate import GateError
from benchmarks.registry import CASES, GROUPS, MODELS, configuration, select
from benchmarks.rows import Row, append, memory_row, timing_rows
from benchmarks.timing import Plan, interleave
from eyeshine.engine import CpuOptions
from eyeshine.errors import BundleError

_BUSY = 0.5  # processes that ran or waited during the last minute
_OUT = Console(width=None if sys.stdout.isatty() else 140)


def main(
    model: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(MODELS)}; all by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these cases (and what they are compared with).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of a group at most.")] = Plan.rounds,
    budget_s: Annotated[float, typer.Option(min=0, help="No further round of a group after that.")] = Plan.budget_s,
    threads: Annotated[int, typer.Option(min=0, help="Of every engine; 0 for all CPUs.")] = 0,
    save: Annotated[bool, typer.Option(help="Append rows to benchmarks/results/.")] = True,
) -> None:
    """Time explanations beside the plain encoder and beside eager PyTorch, and print a table."""
    models, cases = model or list(MODELS), only or []
    _known("--model", models, MODELS)
    _known("--only", cases, [*CASES, "memory"])
    plan = Plan(rounds=rounds, budget_s=budget_s, fewest=min(rounds, Plan.fewest))
    options = CpuOptions(threads)
    origin: dict[str, Any] = {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": environment.machine(),
        "versions": environment.versions(),
        **environment.revision(),
        "threads": options.threads,
    }
    _OUT.print(_describe(origin), soft_wrap=True)
    if (origin["machine"]["load_1m"] or 0) > _BUSY:
        # Seen here: beside a training on both cores eager PyTorch took ten times as long, its threads spin for others.
        _OUT.print("[bold yellow]the machine is busy: ratios are unsteady, those of eager PyTorch mean nothing")
    rows: list[Row] = []
    for name in models:
        try:
            exported = prepare(configuration(name))
        except BundleError as error:
            _OUT.print(f"{name}: skipped, {error}", soft_wrap=True)
            continue
        rows += _measure(name, exported, cases, plan, options, origin)
    if save and rows:
        _OUT.print(f"{len(rows)} rows appended to {append(rows).relative_to(Path(__file__).parent.parent)}")
    missed = sum(row.holds is False for row in rows)
    _OUT.print(f"{sum(row.holds is True for row in rows)} limits met, {missed} missed")


def _measure(
    name: str,
    exported: BenchModel,
    only: Collection[str],
    plan: Plan,
    options: CpuOptions,
    origin: Mapping[str, Any],
) -> list[Row]:
    """All groups of one model; each group's sessions go before the next one's come."""
    known = {**origin, "bundle_hash": exported.two.hash}
    rows: list[Row] = []
    for group in GROUPS:
        selected = select(group, only, embedded=name == "roads")
        if not selected:
            continue
        bench = Bench(exported, options)
        made = {case: bench.make(CASES[case]) for case in selected}
        try:
            errors = {case: made[case].check() for case in selected}
        except GateError as error:
            _OUT.print(f"[bold red]{name}: not measured: {error}", soft_wrap=True)
            raise typer.Exit(1) from None
        timings = interleave({case: made[case].run for case in selected}, plan)
        found = timing_rows(known, name, group, timings, errors)
        rows += found
        _OUT.print(report.table(f"{exported.name}, {group}: {timings.rounds} rounds side by side, B=1", found))
    if name == "b16" and (not only or "memory" in only):
        row = memory_row(known, name, memory.measure(exported.two.folder, options.threads))
        rows.append(row)
        _OUT.print(report.table(f"{exported.name}: a process that explains one image", [row]))
    return rows


def _describe(origin: Mapping[str, Any]) -> str:
    machine, versions = origin["machine"], origin["versions"]
    commit = (origin["commit"] or "no commit")[:12] + (" with changes" if origin["dirty"] else "")
    listed = ", ".join(f"{key} {value}" for key, value in versions.items())
    return f"{machine['cpu']}, {machine['cpus']} CPUs, {origin['threads']} threads, {machine['os']}; {listed}; {commit}"


def _known(option: str, given: Collection[str], allowed: Collection[str]) -> None:
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}; allowed: {', '.join(allowed)}", param_hint=option)


if __name__ == "__main__":
    typer.run(main)
