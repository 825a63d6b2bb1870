"""One group: make its cases, gate them, time those that are right side by side, and say why the others were not."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gate import Case, GateError, NotSupportedError
from benchmarks.judge import missing_row, timing_rows
from benchmarks.registry import CASES, CaseSpec, Limit
from benchmarks.rows import Row
from benchmarks.timing import Plan, interleave

__all__ = ["FAILED", "NOT_SUPPORTED", "measure"]

NOT_SUPPORTED = "not supported here: "
FAILED = "not measured: "


def measure(
    make: Callable[[CaseSpec], Case],
    names: Sequence[str],
    plan: Plan,
    origin: Mapping[str, Any],
    model: str,
    group: str,
    *,
    batch: int = 1,
    precision: str | None = None,
    limits: Iterable[Limit] | None = None,
    look: Callable[[Row, Case], Row] | None = None,
) -> list[Row]:
    """Rows of a group, one for every name.

    A case that this machine cannot run gets a note that begins with ``NOT_SUPPORTED``; one that fails or yields a wrong
    result gets ``FAILED``, and its traceback goes to stderr. Neither is timed, and neither stops the others.

    Args:
        make: from a description to a case.
        names: keys of ``CASES``; the first that runs is what the others are compared with.
        plan: how long.
        origin: fields of ``Row`` that are the same for the whole run.
        model, group, batch, limits: as in ``timing_rows``.
        precision: of the cases that are not timed.
        look: adds to the row of a case what timing does not tell.
    """
    cases: dict[str, Case] = {}
    errors: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name in names:
        try:
            case = make(CASES[name])
            errors[name], cases[name] = case.check(), case
        except NotSupportedError as error:
            notes[name] = f"{NOT_SUPPORTED}{error}"
        except GateError as error:
            notes[name] = f"{FAILED}{error}"
        except Exception as error:
            # The first run on a machine nobody has seen must yield what it can; the traceback is kept.
            traceback.print_exc(file=sys.stderr)
            notes[name] = f"{FAILED}{type(error).__name__}: {error}"
    missing = [
        missing_row(origin, model, group, name, note, batch=batch, precision=precision) for name, note in notes.items()
    ]
    if not cases:
        return missing
    timings = interleave({name: case.run for name, case in cases.items()}, plan)
    facts = {name: case.facts for name, case in cases.items()}
    rows = timing_rows(origin, model, group, timings, facts, errors, batch=batch, limits=limits)
    return [*(look(row, cases[row.case]) if look else row for row in rows), *missing]
