"""The page that ``methods_results`` writes: the table, the ranking, and which method should be the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks import environment
from eyeshine.study import Preset, Table

__all__ = ["CHEAP", "page", "winner"]

CHEAP: Final = 1.05
"""A default method may cost so many plain forwards: the project's promise is an explanation in the same pass."""


def cost(table: Table, name: str, encode_over_plain: float) -> float:
    """What a method costs in plain forwards, the stock export of the encoder: our own encoder does less."""
    return table.cost[name] * encode_over_plain


_ARROW = {"higher": "↑", "lower": "↓"}


def page(preset: Preset, table: Table, passes: Table, order: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The Markdown page, without its notes.

    Args:
        preset: the protocol.
        table: of the methods of one run.
        passes: of methods by passes, and of others on the scenes that they have.
        order: rows, of both tables.
        facts: "first_seed", "encode_over_plain", "origin".
    """
    lines = [
        "# All methods, measured",
        "",
        f"Held-out road scenes (seeds from {facts['first_seed']:,} on; nothing was trained, set or chosen on them),",
        "the embedded model, the class with the most visible pixels of each scene explained alone, a class that is",
        "absent as negative text.",
        "All rows of a table are of the same scenes under one protocol; none is copied from a paper. Insertion and",
        "deletion: softmax probability among the classes, pixels shown on the blurred image (25 to 100 %), or patches",
        "replaced by the mean colour (0 to 25 %; degradation is the mean cosine of the same images), area by",
        "trapezoids. Everything else is as docs/metrics.md has it by default. `python -m benchmarks.methods_results`",
        "makes this page.",
        "",
        *_rows(preset, table, order, facts),
        "",
        "Bold: better than the second beyond the 95 % interval of their difference (bootstrap over scenes, the same",
        f"draws for all). Cost: median time of `explain` over that of encoding the image ({table.encode_ms:.1f} ms),",
        "whole calls with one thread, in turn on every scene, in multiples of the stock export",
        f"of the encoder, of which `encode.onnx` takes {facts['encode_over_plain']:.2f} (README). Intervals and",
        f"undefined values: benchmarks/results/methods.json. {environment.describe(facts['origin'])}.",
        "",
        "## Methods by passes",
        "",
        "They run the model many times for each image, so this table may be of fewer scenes; other methods stand",
        "beside them on the same scenes.",
        "",
        *_rows(preset, passes, order, facts),
        "",
        *_ranking(table, order, facts["encode_over_plain"]),
        "",
    ]
    return "\n".join(lines) + "\n"


def _rows(preset: Preset, table: Table, order: Sequence[str], facts: Mapping[str, Any]) -> list[str]:
    titles = [column.title for column in table.columns]
    head = " | ".join(f"{title} {_ARROW[preset.metrics[title].direction]}" for title in titles)
    lines = [f"| method | {head} | cost | scenes |", "| --- |" + " ---: |" * (len(titles) + 2)]
    for name in order:
        if name in table.cells:
            cells = [_cell(table, name, title) for title in titles]
            forwards = cost(table, name, facts["encode_over_plain"])
            lines.append(f"| {name} | {' | '.join(cells)} | {forwards:.2f} | {table.samples[name]} |")
    return lines


def _cell(table: Table, name: str, title: str) -> str:
    cell = table.cells[name].get(title)
    if cell is None:
        return "–"
    return f"**{cell.value:.3f}**" if table.best.get(title) == name else f"{cell.value:.3f}"


def _faithful(table: Table, name: str) -> np.ndarray:
    """Insertion less deletion, of the data and of each draw."""
    row = table.cells[name]
    value = row["insertion"].value - row["deletion"].value
    return np.concatenate([[value], row["insertion"].draws - row["deletion"].draws])


def winner(table: Table, order: Sequence[str], encode_over_plain: float) -> list[tuple[str, float, float, float]]:
    """(method, insertion less deletion, and the 95 % interval of what it lies behind the first) of those that cost at
    most ``CHEAP`` plain forwards, best first."""
    cheap = [name for name in order if name in table.cells and cost(table, name, encode_over_plain) <= CHEAP]
    found = {name: _faithful(table, name) for name in cheap}
    ranked = sorted(cheap, key=lambda name: -found[name][0])
    rows = []
    for name in ranked:
        behind = found[ranked[0]][1:] - found[name][1:]
        low, high = np.nanpercentile(behind, (2.5, 97.5))
        rows.append((name, float(found[name][0]), float(low), float(high)))
    return rows


def _ranking(table: Table, order: Sequence[str], encode_over_plain: float) -> list[str]:
    rows = [
        f"| {name} | {value:.3f} | {'–' if not index else f'{low:.3f} to {high:.3f}'} |"
        for index, (name, value, low, high) in enumerate(winner(table, order, encode_over_plain))
    ]
    return [
        "## Which method is the default",
        "",
        f"Among those that cost at most {CHEAP} plain forwards, by insertion less deletion, the pair of metrics that",
        "asks what the score depends on rather than where an object is:",
        "",
        "| method | insertion − deletion | behind the first (95 %) |",
        "| --- | ---: | ---: |",
        *rows,
    ]
