"""Writes the README's tables: from the newest rows, and from the embedded model's scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.registry import CASES, MODELS
from benchmarks.rows import Row, newest, read
from eyeshine.bundle import default_bundle

__all__ = ["BEGIN", "END", "ROADS", "insert", "markdown", "roads_markdown"]

BEGIN, END = "<!-- bench:start -->", "<!-- bench:end -->"
ROADS = "<!-- roads:start -->", "<!-- roads:end -->"
_TITLES = {"b32": "ViT-B/32", "b16": "ViT-B/16", "roads": "roads"}
_MB = 1e6


def markdown(rows: Sequence[Row]) -> str:
    """A table of medians and ratios, and under it the conditions.

    Args:
        rows: of one run, or of several runs of one machine and commit.

    Raises:
        ValueError: no rows, or rows of different machines, versions or commits, which one table must not mix.
    """
    timed = [row for row in rows if row.median_ms is not None]
    if not timed:
        raise ValueError("no rows to show; make bench appends them")
    if len({_conditions(row) for row in rows}) > 1:
        raise ValueError("rows of different conditions; measure all models in one run")
    models = [model for model in MODELS if any(row.model == model for row in timed)]
    lines = [
        "| one 224 px image (roads: its own size) | " + " | ".join(_TITLES[model] for model in models) + " |",
        "| --- |" + " ---: |" * len(models),
    ]
    for case, spec in CASES.items():
        # A case that ran in several groups is shown as it ran in the first.
        found = {row.model: row for row in reversed(timed) if row.case == case}
        if found:
            cells = (_cell(found[model]) if model in found else "" for model in models)
            lines.append(f"| {spec.title} | " + " | ".join(cells) + " |")
    memory = [
        f"A process that explains one image with {_TITLES[row.model]} peaks at {row.peak_bytes / _MB:.0f} MB; "
        f"its weights are {row.weights_bytes / _MB:.0f} MB."
        for row in rows
        if row.peak_bytes is not None and row.weights_bytes is not None
    ]
    return "\n".join([*lines, "", _conditions(rows[0]), *memory])


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
    assert row.median_ms is not None
    assert row.ratio is not None
    return f"{row.median_ms:.1f} ms" + ("" if row.case == "plain" else f", {row.ratio:.2f} x")


def _conditions(row: Row) -> str:
    machine, versions = row.machine, row.versions
    commit = (row.commit or "none")[:12] + (" with changes" if row.dirty else "")
    return (
        f"Medians, and medians of the ratio to the plain encoder (open_clip's `visual`, normalised, through "
        f"`torch.onnx.export`) in the same round; random weights, batch 1, fp32, texts cached, map included. "
        f"{machine['cpu']}, {row.threads} threads, onnxruntime {versions['onnxruntime']}, "
        f"torch {versions['torch']}, commit {commit}, `make bench`."
    )


def main(path: Path = Path(__file__).parent.parent / "README.md") -> None:
    """Render the newest rows and the embedded model's scores into the README."""
    text = insert(path.read_text("utf-8"), markdown(newest(read())))
    scores = json.loads((default_bundle() / "scores.json").read_text("utf-8"))
    path.write_text(insert(text, roads_markdown(scores), *ROADS), "utf-8")


if __name__ == "__main__":
    main()
