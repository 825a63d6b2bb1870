"""Measure and print: ``python -m benchmarks.run`` (``make bench``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from benchmarks import cold, environment, memory, report, throughput
from benchmarks.bundles import BenchModel, prepare
from benchmarks.cases import Bench
from benchmarks.judge import memory_row
from benchmarks.measure import FAILED, measure
from benchmarks.models import configuration
from benchmarks.registry import GROUPS, MODELS, Group, select
from benchmarks.rows import CPU_ROWS, Row, append
from benchmarks.timing import Plan
from benchmarks.workload import Workload
from eyeshine import Explainer
from eyeshine.engine import CpuOptions, OpenVinoOptions
from eyeshine.errors import BundleError

_MODELS = [name for name in MODELS if any(name in group.models for group in GROUPS.values())]
_CASES = [*dict.fromkeys(case for group in GROUPS.values() for case in group.cases), "memory"]
_BUSY = 0.5  # processes that ran or waited during the last minute


def main(
    model: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(MODELS)}; all but l14 by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these cases (and what they are compared with).")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of a group; the group's own by default.")] = None,
    budget_s: Annotated[float | None, typer.Option(min=0, help="No further round of a group after that.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of every engine; 0 for all CPUs.")] = 0,
    save: Annotated[bool, typer.Option(help="Append rows to benchmarks/results/.")] = True,
) -> None:
    """Time explanations beside the plain encoder, OpenVINO and eager PyTorch on the CPU, and print tables."""
    models, cases = model or _MODELS, only or []
    _known("--model", models, MODELS)
    _known("--only", cases, _CASES)
    options = CpuOptions(threads)
    origin = {**environment.origin(), "threads": options.threads}
    print(environment.describe(origin))
    if (origin["machine"]["load_1m"] or 0) > _BUSY:
        # Seen here: beside a training on both cores eager PyTorch took ten times as long, its threads spin for others.
        print("the machine is busy: ratios are unsteady, those of eager PyTorch mean nothing")
    rows: list[Row] = []
    for name in models:
        try:
            exported = prepare(configuration(name))
        except BundleError as error:
            print(f"{name}: skipped, {error}")
            continue
        rows += _measure(name, exported, cases, _Asked(rounds, budget_s), options, origin)
    if save and rows:
        append(rows, CPU_ROWS)
        print(f"{len(rows)} rows appended to benchmarks/results/{CPU_ROWS.name}")
    missed = sum(row.holds is False for row in rows)
    print(f"{sum(row.holds is True for row in rows)} limits met, {missed} missed")
    if any((row.note or "").startswith(FAILED) for row in rows):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Asked:
    """What the command line says of the plan of every group."""

    rounds: int | None
    budget_s: float | None

    def plan(self, group: Group) -> Plan:
        rounds = self.rounds or group.rounds
        budget_s = group.budget_s if self.budget_s is None else self.budget_s
        return Plan(
            rounds=rounds, budget_s=budget_s, fewest=min(rounds, Plan.fewest), warmup=group.warmup, stay=group.stay
        )


def _measure(
    name: str,
    exported: BenchModel,
    only: Collection[str],
    asked: _Asked,
    options: CpuOptions,
    origin: Mapping[str, Any],
) -> list[Row]:
    """All groups of one model; each group's sessions go before the next one's come."""
    engines = {
        "openvino": OpenVinoOptions(options.threads),
        "openvino-bf16": OpenVinoOptions(options.threads, "bf16"),
    }
    rows: list[Row] = []
    for group, spec in GROUPS.items():
        selected = select(group, only, name)
        if not selected:
            continue
        plan = asked.plan(spec)
        if group == "cold":
            found = cold.rows(origin, name, options.threads, plan.rounds)
        elif group in throughput.PROTOCOLS:
            found = throughput.rows(origin, name, group, Explainer.load(threads=options.threads), plan)
        else:
            bench = Bench(exported, Workload(exported.source), exported.full(), options, engines)
            found = measure(bench.make, selected, plan, origin, name, group)
        rows += found
        print(report.table(f"{exported.name}, {group}: {found[0].rounds} rounds side by side, B=1", found))
    if name == "b16" and (not only or "memory" in only):
        bundle = exported.full()
        row = memory_row(origin, name, memory.measure(bundle.folder, options.threads), bundle.hash)
        rows.append(row)
        print(report.table(f"{exported.name}: a process that explains one image", [row]))
    return rows


def _known(option: str, given: Collection[str], allowed: Collection[str]) -> None:
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}; allowed: {', '.join(allowed)}", param_hint=option)


if __name__ == "__main__":
    typer.run(main)
