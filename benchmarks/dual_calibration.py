"""Calibrate the thresholds of dual explainability on roads scenes, and score the verdicts on held-out ones.

    python -m benchmarks.dual_calibration calibrate          # 1,050 scenes from seed 940,000,000 on; prints thresholds
    python -m benchmarks.dual_calibration evaluate           # 500 held-out scenes from seed 1,000,700,000 on; tables
    python -m benchmarks.dual_calibration latency            # a request in units of one explanation, one thread
    python -m benchmarks.dual_calibration drop               # Concept Drop of maps on and off their object

``calibrate`` turns one threshold after the other to where most verdicts are right, three times round, with maps and,
for a fair comparison, by itself without them. Its numbers are the defaults of ``eyeshine.dual.thresholds``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from time import perf_counter, process_time
from typing import Final

import numpy as np

from benchmarks.dual_cases import Case, plant
from eyeshine import Explainer
from eyeshine.dual import KINDS, DualOptions, Kind, Signals, Thresholds, decide, explain_dual
from eyeshine.dual.thresholds import WITHOUT_MAPS
from eyeshine.dual.verdict import NAMES
from eyeshine.roads import HELD_OUT_FROM

__all__ = ["Row", "calibrated", "confusion", "rows", "share_right", "table"]

CALIBRATION: Final = (940_000_000, 1_050)
HELD_OUT: Final = (HELD_OUT_FROM + 700_000, 500)  # first seed and number of cases
_ROUNDS: Final = 3
_STEPS: Final = 60  # values of a threshold that are tried
_TURNS: Final = 60  # of the timing
_DROPS: Final = 200  # cases

# What a threshold is compared with, and so the range that it is looked for in.
_SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "presence": ("answer_presence",),
    "image": ("image",),
    "scenery": ("prompt_presence",),
    "alike_text": ("text_similarity",),
    "blind": ("blind_similarity",),
    "alike_map": ("map_similarity",),
    "second": ("prompt_second",),
    "focus": ("answer_focus",),
    "largest": ("answer_largest",),
}
_OF_MAPS: Final = ("alike_map", "second", "focus", "largest")


@dataclass(frozen=True)
class Row:
    """A planted case with the signals that were read from it."""

    kind: Kind
    variant: str
    signals: Signals


def rows(explainer: Explainer, first_seed: int, count: int) -> list[Row]:
    """Plant ``count`` cases and read their signals."""
    return [
        Row(case.kind, case.variant, _signals(explainer, case)) for case in islice(plant(explainer, first_seed), count)
    ]


def _signals(explainer: Explainer, case: Case) -> Signals:
    return explain_dual(explainer, case.image, case.prompt, case.answer, blind_answer=case.blind_answer).signals


def share_right(found: Sequence[Row], thresholds: Thresholds, *, maps: bool) -> float:
    """The share of verdicts that are as planted."""
    return sum(decide(row.signals, thresholds, maps=maps).kind == row.kind for row in found) / len(found)


def calibrated(found: Sequence[Row], start: Thresholds, *, maps: bool) -> Thresholds:
    """Thresholds with which most verdicts are right; of equally good values the middle one."""
    best = start
    for _ in range(_ROUNDS):
        for name, sources in _SOURCES.items():
            if not maps and name in _OF_MAPS:
                continue
            values = [v for row in found for source in sources if (v := getattr(row.signals, source)) is not None]
            tried = np.unique(np.quantile(values, np.linspace(0.0, 1.0, _STEPS)))
            right = [share_right(found, replace(best, **{name: float(value)}), maps=maps) for value in tried]
            equal = np.flatnonzero(np.array(right) == max(right))
            best = replace(best, **{name: round(float(tried[equal[len(equal) // 2]]), 2)})
    return best


def confusion(found: Iterable[Row], thresholds: Thresholds, *, maps: bool) -> Counter[tuple[Kind, Kind]]:
    """How often a planted kind (first) got a verdict (second)."""
    return Counter((row.kind, decide(row.signals, thresholds, maps=maps).kind) for row in found)


def table(counts: Counter[tuple[Kind, Kind]]) -> str:
    """The confusion table in Markdown."""
    there = [kind for kind in KINDS if any(kind in pair for pair in counts)]
    lines = [
        f"| planted | {' | '.join(NAMES[kind] for kind in there)} | right |",
        "| --- |" + " --- |" * (len(there) + 1),
    ]
    for planted in there:
        cells = [counts[planted, kind] for kind in there]
        if sum(cells):
            share = counts[planted, planted] / sum(cells)
            lines.append(f"| {NAMES[planted]} | {' | '.join(str(cell or '') for cell in cells)} | {share:.0%} |")
    total = sum(counts.values())
    right = sum(count for (planted, kind), count in counts.items() if planted == kind)
    return "\n".join([*lines, "", f"{right} of {total} verdicts are right: {right / total:.1%}."])


def _calibrate(explainer: Explainer) -> None:
    found = rows(explainer, *CALIBRATION)
    for maps, start in ((True, Thresholds()), (False, WITHOUT_MAPS)):
        best = calibrated(found, start, maps=maps)
        print(f"\n{'with' if maps else 'without'} maps: {asdict(best)}\n\n{table(confusion(found, best, maps=maps))}")


def _evaluate(explainer: Explainer) -> None:
    found = rows(explainer, *HELD_OUT)
    for maps, thresholds in ((True, Thresholds()), (False, WITHOUT_MAPS)):
        counts = confusion(found, thresholds, maps=maps)
        print(f"\n{'With' if maps else 'Without'} maps:\n\n{table(counts)}")
    variants = dict.fromkeys((row.kind, row.variant) for row in found)
    for kind, variant in sorted(variants):
        own = [row for row in found if (row.kind, row.variant) == (kind, variant)]
        with_maps, without = (
            share_right(own, t, maps=maps) for t, maps in ((Thresholds(), True), (WITHOUT_MAPS, False))
        )
        print(f"{NAMES[kind]}, {variant}: {len(own)} cases, right {with_maps:.0%}, without maps {without:.0%}")


def _drop(explainer: Explainer) -> None:
    """What Concept Drop and the largest region say about maps on and off their object."""
    drops: dict[Kind, list[float]] = {"coherent": [], "wrong_reason": []}
    regions: dict[Kind, list[float]] = {"coherent": [], "wrong_reason": []}
    planted = (case for case in plant(explainer, CALIBRATION[0]) if case.kind in drops)
    for case in islice(planted, _DROPS):
        result = explain_dual(explainer, case.image, case.prompt, case.answer, options=DualOptions(metrics=True))
        value, largest = result.score("concept_drop", result.said.concepts[0].text), result.signals.answer_largest
        if value is not None and largest is not None:
            drops[case.kind].append(value)
            regions[case.kind].append(largest)
    print({kind: len(values) for kind, values in drops.items()})
    for name, found in (("Concept Drop", drops), ("largest region", regions)):
        pairs = np.subtract.outer(found["coherent"], found["wrong_reason"])
        print(f"{name}: AUC {np.mean(pairs > 0) + np.mean(pairs == 0) / 2:.2f}")


def _latency(explainer: Explainer) -> None:
    """Wall and processor time of requests in turn; both in units of one explanation of one text, by their medians."""
    image = next(plant(explainer, CALIBRATION[0])).image
    pair = ("is there a bus?", "a red car")
    calls: dict[str, Callable[[], object]] = {
        "one explanation": lambda: explainer.explain(image, ["a bus"]),
        "dual request": lambda: explain_dual(explainer, image, *pair),
        "dual request with metrics": lambda: explain_dual(explainer, image, *pair, options=DualOptions(metrics=True)),
        "one explanation with the metrics": lambda: explainer.evaluate(
            image, ["a bus"], metrics=("concept_drop", "negative_suppression"), negative="a red car"
        ),
    }
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(_TURNS + 3):
        for name in list(calls) if turn % 2 else reversed(calls):
            started = perf_counter(), process_time()
            calls[name]()
            if turn >= 3:
                wall[name].append((perf_counter() - started[0]) * 1e3)
                cpu[name].append((process_time() - started[1]) * 1e3)
    for name in calls:
        one = [np.median(times["one explanation"]) for times in (wall, cpu)]
        here = [np.median(times[name]) for times in (wall, cpu)]
        print(f"{name}: wall {here[0]:.1f} ms ({here[0] / one[0]:.2f}), cpu {here[1]:.1f} ms ({here[1] / one[1]:.2f})")


def main(arguments: Sequence[str]) -> None:
    """Run one of the steps."""
    steps = {"calibrate": _calibrate, "evaluate": _evaluate, "latency": _latency, "drop": _drop}
    if len(arguments) != 1 or arguments[0] not in steps:
        sys.exit("usage: python -m benchmarks.dual_calibration calibrate|evaluate|latency|drop")
    steps[arguments[0]](Explainer.load(threads=1))


if __name__ == "__main__":
    main(sys.argv[1:])
