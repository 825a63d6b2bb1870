"""The table on stdout."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.registry import CASES
from benchmarks.rows import Row

__all__ = ["limit_text", "table"]

_MB = 1e6


def table(title: str, rows: Sequence[Row]) -> Table:
    """Rows of one group, with the wanted limits beside what was measured."""
    result = Table(title=title, title_justify="left")
    for heading in ("case", "median ms", "p99 ms", "min ms", "x plain", "wanted", "", "rel. error"):
        result.add_column(heading, justify="left" if heading in ("case", "wanted", "") else "right")
    for row in rows:
        result.add_row(
            CASES[row.case].title if row.case in CASES else _memory_text(row),
            *(_number(value, 2) for value in (row.median_ms, row.p99_ms, row.min_ms)),
            _number(row.ratio, 3),
            limit_text(row),
            "" if row.holds is None else "ok" if row.holds else "[bold red]MISSED",
            "" if row.error is None else f"{row.error:.1e}",
        )
    return result


def limit_text(row: Row) -> str:
    """What was wanted, and where that is another ratio than the column's, what was measured."""
    if row.bound is None or row.compared is None:
        return ""
    if row.over is None:
        return f"<= {row.bound:.2f} of the limit: {row.compared:.2f}"
    if row.over == "plain":
        return f"<= {row.bound:.2f}"
    return f">= {row.bound:.2f} x {row.over}: {row.compared:.2f}"


def _memory_text(row: Row) -> str:
    if row.peak_bytes is None or row.weights_bytes is None:
        return row.case
    return f"peak memory {row.peak_bytes / _MB:.0f} MB, weights {row.weights_bytes / _MB:.0f} MB"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
