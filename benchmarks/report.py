"""The tables on stdout: plain text, so that a machine needs no library for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.registry import CASES, COPY, ITS_P50, LAUNCHES, SECOND
from benchmarks.rows import Row

__all__ = ["limit_text", "table"]

_MB = 1e6
_HEADINGS: Final = (
    "case", "engine", "prec.", "p50 ms", "p95 ms", "p99 ms", "images/s", "x base", "wanted", "", "rel. error"
)  # fmt: skip
_LEFT: Final = {"case", "engine", "prec.", "wanted", ""}


def table(title: str, rows: Sequence[Row]) -> str:
    """Rows of one group, with the wanted limits beside what was measured; a case without figures says why."""
    lines, cells = [title], [_cells(row) for row in rows if row.note is None]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *cells, strict=True)]
    for row in [_HEADINGS, *cells] if cells else []:
        padded = (
            text.ljust(width) if heading in _LEFT else text.rjust(width)
            for text, width, heading in zip(row, widths, _HEADINGS, strict=True)
        )
        lines.append("  " + "  ".join(padded).rstrip())
    notes = {_title(row): row.note for row in rows if row.note is not None}
    if len(notes) == len(rows) > 1 and len(set(notes.values())) == 1:
        return f"{title}: {next(iter(notes.values()))}"
    lines += [f"  {case}: {note}" for case, note in notes.items()]
    return "\n".join([*lines, ""])


def limit_text(row: Row) -> str:
    """What was wanted, and where that is another ratio than the column's, what was measured."""
    if row.bound is None or row.compared is None:
        return ""
    if row.over is None:
        return f"<= {row.bound:.2f} of the limit: {row.compared:.2f}"
    if row.over == ITS_P50:
        return f"p99 <= {row.bound:.2f} p50: {row.compared:.2f}"
    if row.over == SECOND:
        return f"<= {row.bound:.2f} s: {row.compared:.2f}"
    if row.over == COPY:
        return f">= {row.bound:.2f} of {COPY}: {row.compared:.2f}"
    sign = "<=" if (row.compared <= row.bound) == row.holds else ">="
    if row.over == row.base:
        return f"{sign} {row.bound:.2f}"
    return f"{sign} {row.bound:.2f} x {row.over}: {row.compared:.2f}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _title(row),
        (row.engine or "").removesuffix("ExecutionProvider"),
        row.precision or "",
        *(_number(value, 3 if (row.p50_ms or 1) < 1 else 2) for value in (row.p50_ms, row.p95_ms, row.p99_ms)),
        _number(row.images_per_second, 1),
        _number(row.ratio, 3),
        limit_text(row) + _launches_text(row),
        "" if row.holds is None else "ok" if row.holds else "MISSED",
        "" if row.error is None else f"{row.error:.1e}",
    )


def _launches_text(row: Row) -> str:
    if row.launches is None:
        return ""
    wanted = f" (wanted <= {LAUNCHES[row.case]})" if row.case in LAUNCHES else ""
    return f" {row.launches:g} launches{wanted}, {row.device_ms:.3f} ms on the GPU"


def _title(row: Row) -> str:
    if row.peak_bytes is not None and row.weights_bytes is not None:
        return f"peak memory {row.peak_bytes / _MB:.0f} MB, weights {row.weights_bytes / _MB:.0f} MB"
    return CASES[row.case].title if row.case in CASES else row.case


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
