"""Times cases side by side: every round runs every case once, so that what disturbs one disturbs all."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plan", "Timings", "interleave"]


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: at most.
        budget_s: no round begins after that many seconds, warm-up included, ...
        fewest: ... but that many rounds are made in any case.
        warmup: rounds that are not counted.
        seed: of the order of the cases within a round.
        stay: how often in a row a case runs in its turn. The time is then the mean without the first, which still feels
            what ran before: threads that another case left spinning slow the next one, not the one to blame.
    """

    rounds: int = 60
    budget_s: float = 40.0
    fewest: int = 5
    warmup: int = 2
    seed: int = 0
    stay: int = 1


@dataclass(frozen=True)
class Timings:
    """Times of all rounds.

    Attributes:
        wall_ms: case -> [rounds] milliseconds, in the order of the rounds.
    """

    wall_ms: Mapping[str, NDArray[np.float64]]

    @property
    def rounds(self) -> int:
        return len(next(iter(self.wall_ms.values())))

    def percentile_ms(self, case: str, percent: float) -> float:
        """50 is the median, 0 the least."""
        return float(np.percentile(self.wall_ms[case], percent))

    def ratio(self, case: str, over: str) -> float:
        """Median over the rounds of the two cases' ratio within a round: slow drift of the machine cancels."""
        return float(np.median(self.wall_ms[case] / self.wall_ms[over]))


def interleave(
    cases: Mapping[str, Callable[[], object]], plan: Plan, clock: Callable[[], float] = perf_counter
) -> Timings:
    """Run all cases round by round.

    The order within a round is shuffled (the same way for one seed), because what ran before leaves its mark on the
    caches and on waiting threads. Two cases run in turn.

    Args:
        cases: name -> what to run.
        plan: how long.
        clock: seconds.
    """
    order = list(cases)
    shuffle = random.Random(plan.seed).shuffle
    wall_ms: dict[str, list[float]] = {name: [] for name in cases}
    began = clock()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(plan.warmup + plan.rounds):
            counted = number - plan.warmup
            if counted >= plan.fewest and clock() - began > plan.budget_s:
                break
            if len(order) > 2:
                shuffle(order)
            for name in order:
                elapsed_ms = _turn(cases[name], plan.stay, clock)
                if counted >= 0:
                    wall_ms[name].append(elapsed_ms)
    finally:
        if collecting:
            gc.enable()
    return Timings({name: np.array(times) for name, times in wall_ms.items()})


def _turn(case: Callable[[], object], stay: int, clock: Callable[[], float]) -> float:
    """Milliseconds of one run."""
    if stay > 1:
        case()
    counted, started = max(1, stay - 1), clock()
    for _ in range(counted):
        case()
    return (clock() - started) * 1e3 / counted
