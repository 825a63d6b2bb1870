"""Writes the README's tables: from the newest rows, and from the embedded model's scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import describe
from benchmarks.registry import CASES, MODELS, base_of
from benchmarks.rows import CPU_ROWS, GPU_ROWS, Row, newest, read
from eyeshine.bundle import default_bundle

__all__ = ["BEGIN", "END", "ROADS", "gpu_markdown", "insert", "markdown", "roads_markdown"]

BEGIN, END = "<!-- bench:start -->", "<!-- bench:end -->"
ROADS = "<!-- roads:start -->", "<!-- roads:end -->"
_TITLES = {"b32": "ViT-B/32", "b16": "ViT-B/16", "l14": "ViT-L/14", "roads": "roads"}
_BASES = ("plain", "network")
_OURS = {"method": "grad_eclip", "eager-passes": "ours", "throughput": "engine"}
"""What cases of these kinds are held against, in the table's words."""
_GPU_CASES = {
    "network": "encoder",
    "plain": "encoder",
    "encode": "encode.onnx",
    "explain-1": "explain, 1 prompt",
    "explain-10": "10 prompts",
    "explain-100": "100 prompts",
    "eager-1": "autograd, 1 prompt",
    "eager-10": "autograd, 10 prompts",
}
_NO_GPU = "On a GPU: not measured (`make bench-gpu` does it)."
_MB = 1e6


def markdown(rows: Sequence[Row], gpu: Sequence[Row] = ()) -> str:
    """A table of medians and ratios, under it the conditions, and the GPU's table or that there is none.

    Args:
        rows: of one run on the CPU, or of several runs of one machine and commit.
        gpu: of one run on a GPU.

    Raises:
        ValueError: no rows, or rows of different machines, versions or commits, which one table must not mix.
    """
    shown = [row for row in rows if row.p50_ms is not None or row.note is not None]
    if not shown:
        raise ValueError("no rows to show; make bench appends them")
    if len({_conditions(row) for row in rows}) > 1:
        raise ValueError("rows of different conditions; measure all models in one run")
    models = [model for model in MODELS if any(row.model == model for row in shown)]
    lines = [
        "| one 224 px image (roads: its own size) | " + " | ".join(_TITLES[model] for model in models) + " |",
        "| --- |" + " ---: |" * len(models),
    ]
    for case, spec in CASES.items():
        # A case that ran in several groups is shown as it ran in the first.
        found = {row.model: row for row in reversed(shown) if row.case == case}
        if found:
            cells = (_cell(found[model]) if model in found else "" for model in models)
            lines.append(f"| {spec.title} | " + " | ".join(cells) + " |")
    beside = [*(sentence for row in rows if (sentence := _sentence(row))), *_loops(rows)]
    return "\n".join([*lines, "", _conditions(rows[0]), *beside, "", gpu_markdown(gpu)])


def gpu_markdown(rows: Sequence[Row]) -> str:
    """One line for every model, engine, precision and batch."""
    timed = [row for row in rows if row.p50_ms is not None]
    if not timed:
        return _NO_GPU
    lines = [
        "| " + " | ".join(("on the GPU, ms", *_GPU_CASES.values())) + " |",
        "| --- |" + " ---: |" * len(_GPU_CASES),
    ]
    places = dict.fromkeys((row.model, row.group, row.precision, row.batch) for row in timed if row.case in _GPU_CASES)
    for model, group, precision, batch in places:
        found = {
            row.case: row
            for row in timed
            if (row.model, row.group, row.precision, row.batch) == (model, group, precision, batch)
        }
        cells = (_cell(found[case]) if case in found else "" for case in _GPU_CASES)
        lines.append(f"| {_TITLES[model]}, {group}, {precision}, batch {batch} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", describe(asdict(timed[0])) + ", `make bench-gpu`."])


def roads_markdown(scores: Mapping[str, Any]) -> str:
    """The embedded model's figures, means over classes, from the content of its ``scores.json``."""

    def mean(values: Mapping[str, float]) -> str:
        known = [value for value in values.values() if not math.isnan(value)]
        return f"{sum(known) / len(known):.3f}"

    return "\n".join(
        [
            f"| on {scores['scenes']:,} held-out scenes, mean over {len(scores['auc'])} classes | |",
            "| --- | ---: |",
            f'| presence, ROC-AUC of the cosine with "a LABEL" | {mean(scores["auc"])} |',
            *(f"| pointing game, {way} | {mean(rates)} |" for way, rates in scores["pointing"].items()),
            f"| pointing game, chance | {mean(scores['chance'])} |",
        ]
    )


def insert(readme: str, content: str, begin: str = BEGIN, end: str = END) -> str:
    """Replace what stands between the two markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    before, opened, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed or begin in rest or end in after:
        raise ValueError(f"the file needs {begin} and {end} once each, in this order")
    return f"{before}{begin}\n{content}\n{end}{after}"


def _cell(row: Row) -> str:
    if row.p50_ms is None:
        return (row.note or "").split(":")[0]
    digits = 1 if row.p50_ms >= 1 else 3
    ratio = "" if row.case == row.base or row.base not in _BASES else f", {row.ratio:.2f} x"
    return f"{row.p50_ms:.{digits}f} ms{ratio}{_beside(row)}"


def _beside(row: Row) -> str:
    """The ratio to what a case is held against, where that is not the plain encoder."""
    kind, against = CASES[row.case].kind, base_of(row.case)
    if kind not in _OURS or against == row.case:
        return ""
    if row.over == against:
        return f", {row.compared:.2f} x {_OURS[kind]}"
    return f", {row.ratio:.2f} x {_OURS[kind]}" if row.base == against else ""


def _sentence(row: Row) -> str | None:
    """What is not a median."""
    if row.peak_bytes is not None and row.weights_bytes is not None:
        return (
            f"A process that explains one image with {_TITLES[row.model]} peaks at {row.peak_bytes / _MB:.0f} MB; "
            f"its weights are {row.weights_bytes / _MB:.0f} MB."
        )
    if row.group == "turns" and row.p99_ms is not None and row.p50_ms is not None and row.prompts:
        return (
            f"Explaining 10 prompts in turn with another session, {row.rounds} rounds of {_TITLES[row.model]}: "
            f"p99 is {row.p99_ms / row.p50_ms:.2f} x p50."
        )
    return None


def _loops(rows: Sequence[Row]) -> list[str]:
    """One sentence on cases that run several times in a row."""
    found = [row for row in rows if row.group == "loop" and row.case == "explain-10" and row.ratio is not None]
    ratios = ", ".join(f"{row.ratio:.2f} x with {_TITLES[row.model]}" for row in found)
    return (
        [f"In a row, as in a camera's loop, explaining 10 prompts takes {ratios} of the plain encoder."]
        if found
        else []
    )


def _conditions(row: Row) -> str:
    machine, versions = row.machine, row.versions
    commit = (row.commit or "none")[:12] + (" with changes" if row.dirty else "")
    openvino = f"OpenVINO {versions['openvino']}, " if "openvino" in versions else ""
    return (
        f"Medians, and medians of the ratio to the plain encoder (open_clip's `visual`, normalised, through "
        f"`torch.onnx.export`) in the same round; random weights, batch 1, "
        f"fp32 where nothing else is said, texts cached, map included. "
        f"{machine['cpu']}, {row.threads} threads, onnxruntime {versions['onnxruntime']}, "
        f"{openvino}torch {versions['torch']}, commit {commit}, `make bench` "
        "([what every row is](docs/benchmarks.md))."
    )


def main(path: Path = Path(__file__).parent.parent / "README.md") -> None:
    """Render the newest rows and the embedded model's scores into the README."""
    text = insert(path.read_text("utf-8"), markdown(newest(read(CPU_ROWS)), newest(read(GPU_ROWS))))
    scores = json.loads((default_bundle() / "scores.json").read_text("utf-8"))
    path.write_text(insert(text, roads_markdown(scores), *ROADS), "utf-8")


if __name__ == "__main__":
    main()
