"""From records to a table: values over the data set, their spread over seeds, and intervals over samples.

Records are read once, one at a time. Intervals are of a bootstrap over samples: each counts as often as a Poisson
number of mean 1 says, which is drawn from the sample's key. So methods are compared on the same draws, and nothing but
sums is held, however many samples there are.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.study.preset import Column, Preset

__all__ = ["DRAWS", "Cell", "Table", "bootstrap_weights", "interval_of", "tabulate"]

DRAWS: Final = 1000
"""Draws of the bootstrap; 25 of them lie beyond each end of a 95 % interval."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cell:
    """One method in one column.

    Attributes:
        value: over all samples and seeds, in the column's scale.
        std: over the values of single seeds, of a sample of them (n - 1); None with fewer than two seeds.
        draws: the value in each draw of the bootstrap.
        defined: items that count; an undefined value is none of them.
        undefined: items whose value is not defined.
    """

    value: float
    std: float | None
    draws: Array
    defined: int
    undefined: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the draws lie in it."""
        return interval_of(self.draws)


@dataclass(frozen=True, eq=False)
class Table:
    """A study's table.

    Attributes:
        columns: of the preset.
        cells: method -> title of the column -> cell; one that was never defined is missing.
        samples: method -> samples that were evaluated.
        failed: method -> the first errors by sample.
        failures: method -> how many samples failed.
        cost: method -> median time of an explanation over the median time of encoding one image.
        encode_ms: the median of the latter.
        best: title of the column -> the method that is better than the second beyond their interval.
        curves: (metric, role) -> method -> mean curve, scores in the unit of the metric.
    """

    columns: tuple[Column, ...]
    cells: dict[str, dict[str, Cell]]
    samples: dict[str, int]
    failed: dict[str, dict[str, str]]
    failures: dict[str, int]
    cost: dict[str, float]
    encode_ms: float
    best: dict[str, str]
    curves: dict[tuple[str, str], dict[str, Array]]


@dataclass
class _Sums:
    """Sums of a method in a column: group -> [2 (numerator, denominator), 1 + draws], and of each seed alone."""

    every: dict[str, Array] = field(default_factory=lambda: defaultdict(lambda: np.zeros((2, 1 + DRAWS))))
    seeds: dict[int, dict[str, Array]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: np.zeros(2)))
    )
    defined: int = 0
    undefined: int = 0

    def add(self, column: Column, item: Mapping[str, Any], seed: int, weights: Array) -> None:
        terms = list(column.terms(item))
        self.defined += bool(terms)
        self.undefined += not terms and column.metric in item["values"]
        for group, numerator, denominator in terms:
            pair = np.array([numerator, denominator])
            self.every[group] += pair[:, None] * weights
            self.seeds[seed][group] += pair


def tabulate(preset: Preset, records: Iterable[Mapping[str, Any]]) -> Table:
    """The table of a study's records."""
    sums: dict[str, dict[str, _Sums]] = defaultdict(lambda: defaultdict(_Sums))
    keys: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    failures: dict[str, set[str]] = defaultdict(set)
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    curves: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(dict)
    key, weights = "", bootstrap_weights("")
    for record in records:
        method = record["method"]
        if "error" in record:
            failures[method].add(record["key"])
            if len(failed[method]) < 5:
                failed[method][record["key"]] = record["error"]
            continue
        if record["key"] != key:  # the records of a sample come one after the other
            key, weights = record["key"], bootstrap_weights(record["key"])
        keys[method].add(key)
        times[method].append((record["explain_ms"], record["encode_ms"]))
        for item in record["items"]:
            for column in preset.columns:
                if column.role == item["role"]:
                    sums[method][column.title].add(column, item, record["seed"], weights)
            for metric, curve in item["curves"].items():
                sum_, count = curves[metric, item["role"]].get(method, (0.0, 0))
                curves[metric, item["role"]][method] = [sum_ + np.array(curve), count + 1]
    cells = {
        method: {title: cell for title, found in row.items() if (cell := _cell(preset.columns, title, found))}
        for method, row in sums.items()
    }
    every = [encode for pairs in times.values() for _, encode in pairs]
    return Table(
        columns=preset.columns,
        cells=cells,
        samples={method: len(found) for method, found in keys.items()},
        failed=dict(failed),
        failures={method: len(found) for method, found in failures.items()},
        cost={
            method: float(np.median([a for a, _ in p]) / np.median([b for _, b in p])) for method, p in times.items()
        },
        encode_ms=float(np.median(every)) if every else float("nan"),
        best={column.title: best for column in preset.columns if (best := _best(preset, column, cells))},
        curves={name: {m: total / count for m, (total, count) in found.items()} for name, found in curves.items()},
    )


def bootstrap_weights(key: str) -> Array:
    """[1 + DRAWS]: 1 for the data set itself, then how often the sample counts in each draw."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return np.concatenate([[1.0], np.random.default_rng(seed).poisson(1.0, DRAWS)])


def _ratio(groups: Mapping[str, Array]) -> Any:
    """Mean over the groups of numerator / denominator, for each draw in which any group has a denominator."""
    pairs = np.stack(list(groups.values()))
    ratios = np.full(pairs[:, 0].shape, np.nan)
    np.divide(pairs[:, 0], pairs[:, 1], out=ratios, where=pairs[:, 1] > 0)
    there = ~np.isnan(ratios)
    return np.where(there, ratios, 0).sum(axis=0) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)


def _cell(columns: tuple[Column, ...], title: str, sums: _Sums) -> Cell | None:
    if not sums.every:
        return None
    scale = next(column.scale for column in columns if column.title == title)
    values = scale * _ratio(sums.every)
    seeds = [scale * float(_ratio(groups)) for groups in sums.seeds.values()]
    std = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    return Cell(float(values[0]), std, values[1:], sums.defined, sums.undefined)


def _best(preset: Preset, column: Column, cells: Mapping[str, Mapping[str, Cell]]) -> str | None:
    """The method that is better than the second, with 95 % of the draws' differences on its side of 0."""
    sign = 1 if preset.metrics[column.metric].direction == "higher" else -1
    there = {method: row[column.title] for method, row in cells.items() if column.title in row}
    ranked = sorted(there, key=lambda method: -sign * there[method].value)
    if len(ranked) < 2:
        return None
    low, _ = interval_of(sign * (there[ranked[0]].draws - there[ranked[1]].draws))
    return ranked[0] if low > 0 else None


def interval_of(draws: Array) -> tuple[float, float]:
    """The ends of 95 % of the draws."""
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return float(low), float(high)
