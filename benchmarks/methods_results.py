"""All methods by all metrics on held-out road scenes; writes docs/results.md.

``python -m benchmarks.methods_results [--scenes 1000] [--work out/results]``: carries on what an interrupted run left
in the work folder, one process per CPU. Methods by passes stand in a study of their own, because they take most of the
time: it may be of fewer scenes (``--passes-scenes``), and the table says of how many.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from benchmarks import environment
from benchmarks.methods_page import page
from benchmarks.notes import write_page
from benchmarks.rows import CPU_ROWS, read
from eyeshine import Explainer
from eyeshine.datasets import Roads
from eyeshine.methods import METHODS, AnyMethod, by_passes
from eyeshine.methods.configure import configure
from eyeshine.metrics import METRICS, Degradation, Deletion, Insertion, Metric, Steps
from eyeshine.study import Column, Preset, Study, Table, run, tabulate
from eyeshine.study.records import read_records

_ROOT = Path(__file__).parent.parent
_BATCH = 8  # a CPU's caches hold it: 7.8 ms per image of the embedded model, 9.4 in batches of 32

_QUARTER: Final = Steps(points=5, until=0.25, by_patch=True)
METRICS_HERE: Final[dict[str, Metric]] = {
    "insertion": Insertion("prob", Steps(insert=True, fill="blur", points=4, origin=False)),
    "deletion": Deletion("prob", _QUARTER),
    "degradation": Degradation("cosine", _QUARTER),
    "confidence drop": METRICS["confidence_drop"],
    "confidence increase": METRICS["confidence_increase"],
    "concept drop": METRICS["concept_drop"],
    "negative suppression": METRICS["negative_suppression"],
    "pointing": METRICS["pointing_game"],
    "energy": METRICS["energy_pointing_game"],
    "objects hit": METRICS["multi_object_hit_rate"],
    "AP": METRICS["pixel_ap"],
    "IoU": METRICS["pixel_iou"],
}
EVERYTHING: Final = Preset(
    "everything", "label", METRICS_HERE, tuple(Column(name, name) for name in METRICS_HERE), note="Means over scenes."
)

_VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "grad_eclip, no lambda": ("grad_eclip", {"spatial": False}),
    "grad_eclip, combined": ("grad_eclip", {"similarity": "combined"}),
    "grad_eclip, 4 blocks": ("grad_eclip", {"layers": 4}),
    "grad_eclip, paper-code": ("grad_eclip", {"mode": "paper-code"}),
    "grad_eclip, notebook": ("grad_eclip", {"mode": "notebook"}),
    "legrad, 4 blocks": ("legrad", {"layers": 4}),
}
_BUDGETS: Final[dict[str, dict[str, Any]]] = {
    "rise": {"masks": 200},
    "kernel_shap": {"samples": 200, "side": 2},
    "occlusion": {"stride": 2},
    "blur": {"stride": 2},
}
_BESIDE: Final = ("grad_eclip", "mmel", "attnlrp")


def methods(passes: bool) -> dict[str, AnyMethod]:
    """What is compared, by row: every registered method, and settings of some; those by passes, or the others."""
    rows: dict[str, AnyMethod] = {}
    for name, method in METHODS.items():
        if by_passes(method) == passes:
            rows[name] = configure(name, _BUDGETS.get(name, {}))
            rows |= {row: configure(name, own) for row, (of, own) in _VARIANTS.items() if of == name}
    return rows


def studies(counts: Mapping[str, int], shard: int, shards: int) -> Iterator[tuple[str, Study]]:
    """Folder name -> what one process runs: every shard its own scenes, in seeds that follow each other."""
    for kind, count in counts.items():
        first = Roads().first + count * shard // shards
        scenes = Roads(count * (shard + 1) // shards - count * shard // shards, first)
        yield (
            f"{kind}-{count}-{shard}of{shards}",
            Study(dataset=scenes, methods=methods(kind == "passes"), preset=EVERYTHING),
        )


def work(folder: Path, counts: Mapping[str, int], shard: int, shards: int, bundle: Path | None = None) -> None:
    """Run one shard to its end, with one thread: so two processes use two CPUs better than two threads of one do."""
    explainer = Explainer.load(bundle, threads=1)
    for name, study in studies(counts, shard, shards):
        run(study, explainer, folder / name, resume=True, after=partial(_tell, name, len(study)))


def _tell(name: str, count: int, done: int) -> None:
    if done % 25 == 0 or done == count:
        print(f"{name}: {done} of {count}", flush=True)


def records(folder: Path, counts: Mapping[str, int], shards: int, kind: str) -> Iterator[dict[str, Any]]:
    """What all shards have found so far, of one kind of methods."""
    names = [name for shard in range(shards) for name, _ in studies({kind: counts[kind]}, shard, shards)]
    return chain.from_iterable(read_records(folder / name) for name in names if (folder / name).is_dir())


def report(folder: Path, counts: Mapping[str, int], shards: int, out: Path, rows: Path) -> None:
    """Write the page and its numbers from what is there."""
    found = partial(records, folder, counts, shards)
    table = tabulate(EVERYTHING, found("graphs"))
    keys = {record["key"] for record in found("passes")}
    beside = (r for r in found("graphs") if r["key"] in keys and r["method"] in _BESIDE)
    passes = tabulate(EVERYTHING, chain(beside, found("passes")))
    order = [name for kind in (False, True) for name in methods(kind)]
    facts = {
        "origin": environment.origin(),
        "first_seed": Roads().first,
        "encode_ms": table.encode_ms,
        "encode_over_plain": _encode_over_plain(),
        "methods": _numbers(table),
        "by_passes": _numbers(passes),
    }
    rows.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    write_page(out, page(EVERYTHING, table, passes, order, facts))


def _numbers(table: Table) -> dict[str, Any]:
    """What a table holds, for a file."""
    return {
        name: {
            "samples": table.samples[name],
            "cost": table.cost[name],
            "failed": table.failures.get(name, 0),
            "scores": {
                title: {"value": cell.value, "interval": cell.interval, "undefined": cell.undefined}
                for title, cell in row.items()
            },
        }
        for name, row in table.cells.items()
    }


def _encode_over_plain() -> float:
    """The newest committed ratio of the embedded model's encoder to the stock export of it."""
    rows = [row for row in read(CPU_ROWS) if (row.model, row.group, row.case) == ("roads", "last", "encode")]
    ratio = rows[-1].ratio
    assert ratio is not None
    return ratio


def main(given: Sequence[str] | None = None) -> None:
    """Run what is not done, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--passes-scenes", type=int, help="of the methods by passes; by default all")
    parser.add_argument("--bundle", type=Path, help="by default the embedded one")
    parser.add_argument("--work", type=Path, default=_ROOT / "out" / "results")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs" / "results.md")
    parser.add_argument("--rows", type=Path, default=_ROOT / "benchmarks" / "results" / "methods.json")
    parser.add_argument("--shards", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--again", action="store_true", help="throw away what the work folder holds")
    parser.add_argument("--report", action="store_true", help="only write the page")
    options = parser.parse_args(given)
    counts = {"graphs": options.scenes, "passes": options.passes_scenes or options.scenes}
    if options.again:
        shutil.rmtree(options.work, ignore_errors=True)
    if not options.report:
        options.work.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads and their locks
        jobs = [
            context.Process(target=work, args=(options.work, counts, shard, options.shards, options.bundle))
            for shard in range(options.shards)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        if any(job.exitcode for job in jobs):
            raise SystemExit("a process failed; its records are kept, run again to carry on")
    report(options.work, counts, options.shards, options.out, options.rows)


if __name__ == "__main__":
    main()
