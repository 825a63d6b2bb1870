"""What Concept Attribution's parameters do, measured on held-out road scenes.

``python -m benchmarks.concept_results [--scenes 500]`` writes docs/results-concept-attribution.md: pointing game,
deletion, insertion, Concept Drop and Negative Suppression for alpha, beta and the three strategies, their cost, and how
well the two metrics of the paper tell a present concept from an absent one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import environment
from benchmarks.notes import write_page
from eyeshine import Explainer, roads
from eyeshine.concept import ConceptOptions
from eyeshine.methods import METHODS, AnyMethod, ConceptAttribution
from eyeshine.metrics import (
    ConceptDrop,
    Deletion,
    Insertion,
    Metric,
    NegativeSuppression,
    PointingGame,
    Steps,
    evaluate,
)
from eyeshine_export.roads.scores import roc_auc
from eyeshine_kernels.head_scores import Strategy

FIRST = roads.HELD_OUT_FROM + 600_000
"""First seed; held out, and used for nothing else."""
ALPHAS, BETAS = (0.0, 0.5, 0.8, 1.0), (0.25, 0.5, 1.0, 2.0, 10.0)
STRATEGIES: Final[tuple[Strategy, ...]] = ("layers", "heads", "both")
_POINTS = 10
_LABELS = [roads.article(label) for label in roads.LABELS]
_METRICS: Final[dict[str, Metric]] = {
    "pointing": PointingGame(),
    "deletion": Deletion(score="prob", steps=Steps(points=_POINTS)),
    "insertion": Insertion(score="prob", steps=Steps(insert=True, fill="blur", points=_POINTS)),
    "concept drop": ConceptDrop(),
    "negative suppression": NegativeSuppression(),
}
_ARROWS = {name: "↑" if metric.direction == "higher" else "↓" for name, metric in _METRICS.items()}
_TOLD = ("concept drop", "negative suppression")


@dataclass
class Row:
    """One setting: its scores by metric, and the time of each explanation in milliseconds."""

    name: str
    method: AnyMethod
    scores: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _METRICS})
    wall_ms: list[float] = field(default_factory=list)

    def mean(self, metric: str) -> float:
        """Mean over the scenes in which the metric is defined."""
        return float(np.nanmean(self.scores[metric]))


def settings() -> list[Row]:
    """Every setting that is compared, and the methods beside; one row where several say the same."""
    named = [
        *((f"alpha {alpha:g}", ConceptOptions(alpha=alpha)) for alpha in ALPHAS),
        *((f"beta {beta:g}", ConceptOptions(beta=beta)) for beta in BETAS),
        *((f"strategy {strategy}", ConceptOptions(strategy=strategy)) for strategy in STRATEGIES),
        ("signed gradient", ConceptOptions(signed=True)),
    ]
    rows: dict[ConceptOptions, Row] = {}
    for name, options in named:
        if options in rows:
            rows[options].name += f", {name}"
        else:
            rows[options] = Row(name, ConceptAttribution(options))
    return [*rows.values(), *(Row(name, METHODS[name]) for name in ("grad_eclip", "chefer", "attention"))]


def pick(scene: roads.Scene, seed: int) -> tuple[str, str, NDArray[np.bool_]]:
    """A label of the scene, one that is not in it, and the visible pixels of the first."""
    random = np.random.default_rng(seed)
    present = sorted({thing.label for thing in scene.objects})
    absent = [label for label in roads.LABELS if label not in present]
    chosen = str(random.choice(present))
    mask = np.any([thing.mask for thing in scene.objects if thing.label == chosen], axis=0)
    return chosen, str(random.choice(absent)), np.asarray(mask, np.bool_)


def measure(explainer: Explainer, scenes: int, rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Fill the rows; returns (present, absent) pairs of the paper's metrics for the default setting."""
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in _TOLD}
    for number in range(scenes):
        scene = roads.render(seed=FIRST + number)
        present, absent, mask = pick(scene, number)
        texts = roads.article(present), roads.article(absent)
        for row in rows:
            started = perf_counter()
            result = explainer.explain(scene.image, texts[:1], method=row.method)
            row.wall_ms.append((perf_counter() - started) * 1e3)
            given: Any = {"negative": texts[1], "labels": _LABELS, "masks": [mask]}
            scores = evaluate(explainer, result, metrics=_METRICS, **given)
            for name in _METRICS:
                row.scores[name].append(scores.values(name)[0, 0])
        _tell(explainer, scene, texts, told)
        if sys.stderr.isatty() or number % 50 == 49:
            print(f"{number + 1} of {scenes} scenes", file=sys.stderr)
    return told


def _tell(
    explainer: Explainer, scene: roads.Scene, texts: tuple[str, str], told: dict[str, list[tuple[float, float]]]
) -> None:
    """Both metrics for what is there and for what is not, each against the other text."""
    result = explainer.explain(scene.image, texts, method="concept_attribution")
    chosen = {name: _METRICS[name] for name in _TOLD}
    scores = evaluate(explainer, result, metrics=chosen, negative=list(reversed(texts)))
    for name in _TOLD:
        present, absent = scores.values(name)[0]
        told[name].append((present, absent))


def markdown(rows: Sequence[Row], told: dict[str, list[tuple[float, float]]], scenes: int) -> str:
    """The page."""
    plain = float(np.median(next(row for row in rows if row.name == "grad_eclip").wall_ms))
    head = " | ".join(f"{name} {_ARROWS[name]}" for name in _METRICS)
    lines = [
        "# Concept Attribution, measured",
        "",
        f"{scenes} held-out road scenes (seeds from {FIRST:,} on), the embedded model, one label of each scene drawn",
        "at random, an absent one as negative text. Deletion and insertion: softmax probability among the",
        f"{len(_LABELS)} labels, {_POINTS} points, mean colour and blur. `python -m benchmarks.concept_results`.",
        "",
        f"| setting | {head} | x grad_eclip's time |",
        "| --- |" + " ---: |" * (len(_METRICS) + 1),
    ]
    for row in rows:
        cells = " | ".join(f"{row.mean(name):.3f}" for name in _METRICS)
        lines.append(f"| {row.name} | {cells} | {np.median(row.wall_ms) / plain:.2f} |")
    lines += [
        "",
        f"grad_eclip's explanation took {plain:.1f} ms (median, whole call). Settings are the defaults but for what is",
        "named: alpha .8, beta .5, strategy heads, ReLU gradient. The tower has 6 heads per block: the ten best",
        "of the last block are all of them; `both` chooses 10 of 24.",
        "",
        "## Do the paper's metrics tell a present concept from an absent one?",
        "",
        "| metric | mean, present | mean, absent | AUC |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, pairs in told.items():
        values = np.array([pair for pair in pairs if np.isfinite(pair).all()])
        truth = np.concatenate([np.ones(len(values)), np.zeros(len(values))]).astype(bool)
        auc = float(roc_auc(np.concatenate([values[:, 0], values[:, 1]]), truth))
        lines.append(f"| {name} | {values[:, 0].mean():.3f} | {values[:, 1].mean():.3f} | {auc:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--threads", type=int, default=0, help="0 takes all CPUs")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent.parent / "docs" / "results-concept-attribution.md"
    )
    given = parser.parse_args()
    rows = settings()
    told = measure(Explainer.load(threads=given.threads), given.scenes, rows)
    write_page(given.out, markdown(rows, told, given.scenes) + "\n\n")
    record = {
        "scenes": given.scenes,
        "machine": environment.machine(),
        "versions": environment.versions(),
        **environment.revision(),
        "rows": {row.name: {name: row.mean(name) for name in _METRICS} for row in rows},
    }
    (Path(__file__).parent / "results" / "concept.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
