"""The rounds of a search: all candidates at once, or by successive halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Rung", "Trial", "halve", "plan"]


@dataclass(frozen=True)
class Rung:
    """One round of a search.

    Attributes:
        candidates: how many are left.
        samples: how many each of them has been run on, from the first sample on.
    """

    candidates: int
    samples: int


@dataclass(frozen=True)
class Trial:
    """One candidate in one round.

    Attributes:
        rung: number of the round, from 0.
        name: of the candidate.
        samples: of the round.
        value: by which it was ranked; None where nothing was defined.
        kept: whether it went on, or in the last round won.
    """

    rung: int
    name: str
    samples: int
    value: float | None
    kept: bool


def plan(candidates: int, scenes: int, eta: int | None) -> list[Rung]:
    """The rounds: each keeps one of ``eta`` candidates, rounded up, and has ``eta`` times the samples of the last.

    Successive halving (Jamieson and Talwalkar, AISTATS 2016), ended where 2 to ``eta`` candidates are left: they are
    compared on all samples, so that the winner has a second to be held against.
    """
    left = [candidates]
    while eta is not None and left[-1] > eta:
        left.append(math.ceil(left[-1] / eta))
    share = 1 if eta is None else eta
    return [Rung(count, math.ceil(scenes / share ** (len(left) - 1 - k))) for k, count in enumerate(left)]


def halve(
    names: Iterable[str],
    rungs: Sequence[Rung],
    score: Callable[[Sequence[str], int], Mapping[str, float | None]],
    *,
    higher: bool,
) -> list[Trial]:
    """Run the rounds of a search.

    Args:
        names: of the candidates; of equally good ones the first stays.
        rungs: see ``plan``.
        score: from names and a number of samples to a value for each; None ranks last.
        higher: whether higher values are better.

    Returns:
        Every candidate of every round; that of the last which was kept is the winner.
    """
    left, trials = list(names), []
    for number, rung in enumerate(rungs):
        values = score(left, rung.samples)
        sign = -1 if higher else 1
        ranked = sorted(left, key=lambda name: math.inf if (v := values.get(name)) is None else sign * v)
        going_on = set(ranked[: rungs[number + 1].candidates if number + 1 < len(rungs) else 1])
        trials += [Trial(number, name, rung.samples, values.get(name), name in going_on) for name in left]
        left = [name for name in left if name in going_on]
    return trials
