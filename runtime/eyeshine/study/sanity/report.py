"""What the checks found, as tables, curves and a matrix."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eyeshine.errors import OptionError, OutputError
from eyeshine.render import COLOURS, save_png
from eyeshine.saving import make_folder
from eyeshine.study.charts import chart
from eyeshine.study.sanity.maps import Row

__all__ = ["Mean", "matrix", "summarise", "write_report", "write_rows"]

Check = Literal["weights", "noise", "methods"]
ROWS = "rows.jsonl"
_CHANGE = "similarity_change"

_MEASURES = {
    "weights": ("spearman", "spearman_abs", "ssim"),
    "noise": ("spearman", "spearman_abs", "ssim", "top_overlap", _CHANGE),
    "methods": ("spearman", "top_overlap", "sign_agreement"),
}
_NOTES = {
    "weights": "Likeness of maps to those of the trained model while its weights are drawn anew from the top down, "
    "each step upon those before it; mean ± standard deviation over seeds, images and texts. A map that depends on "
    "what the model learned goes to 0.",
    "noise": "Likeness of maps to those of the same image without noise, whose standard deviation (levels of 0..255) "
    "heads the columns; mean ± standard deviation over seeds, images and texts.",
    "methods": "Likeness of the maps of two methods for the same image and text; mean over images and texts. Signs are "
    "compared where both maps have negative and positive values.",
}
_INK, _PAPER, _CELL, _SIDE = (28, 26, 32), (250, 249, 247), 46, 150


@dataclass(frozen=True)
class Mean:
    """Over rows.

    Attributes:
        value: the mean of what is defined; NaN where nothing is.
        std: of a sample of them (n - 1); None of one.
        defined: how many.
        undefined: how many were not.
    """

    value: float
    std: float | None
    defined: int
    undefined: int

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.3f}"
        return f"{self.value:.3f}{spread}" if self.defined else "–"


def summarise(rows: Iterable[Row], by: Sequence[str], measure: str) -> dict[tuple[Any, ...], Mean]:
    """The mean of a measure for each combination of the columns ``by``, in the order of the rows.

    A row without the measure (a failed one) and one where it is None are undefined.
    """
    values: dict[tuple[Any, ...], list[float | None]] = defaultdict(list)
    for row in rows:
        values[tuple(row[name] for name in by)].append(row.get(measure))
    found = {}
    for key, each in values.items():
        known = [value for value in each if value is not None]
        std = float(np.std(known, ddof=1)) if len(known) > 1 else None
        mean = float(np.mean(known)) if known else float("nan")
        found[key] = Mean(mean, std, len(known), len(each) - len(known))
    return found


def write_rows(rows: Iterable[Row], folder: Path) -> list[Row]:
    """Write ``rows.jsonl``, each row as soon as it is measured, and return them.

    Raises:
        OptionError: there are rows already.
        OutputError: it cannot be written.
    """
    path = make_folder(folder) / ROWS
    if path.exists():
        raise OptionError("there are results already", got=str(path), cure="name another folder")
    written = []
    try:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                file.flush()
                written.append(row)
    except OSError as error:
        raise OutputError("results cannot be written", got=str(error), cure="name another folder") from error
    return written


def write_report(check: Check, rows: Sequence[Row], facts: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.md`` and a picture per measure.

    Args:
        check: "weights", "noise" or "methods": whose rows they are.
        rows: of the check.
        facts: what was checked and how; written above the tables.
        folder: where the files go.

    Returns:
        The Markdown file.

    Raises:
        OptionError: no rows.
        OutputError: it cannot be written.
    """
    if not rows:
        raise OptionError("a report of nothing", got="no rows")
    make_folder(folder)
    parts = [f"# Sanity check: {check}", "", _NOTES[check], "", _said(facts), ""]
    for measure in _MEASURES[check]:
        across = ("first", "second") if check == "methods" else ("method", "step" if check == "weights" else "sigma")
        means = summarise(_of_image(rows) if measure == _CHANGE else rows, across, measure)
        if not any(mean.defined for mean in means.values()):
            continue
        picture = folder / f"{measure}.png"
        if check == "methods":
            means = _with_values(means)
            names = list(dict.fromkeys(name for pair in means for name in pair))
            save_png(matrix(f"{measure} of two methods", names, means), picture)
            table = _pairs(names, means)
        else:
            columns = list(dict.fromkeys(key[1] for key in means))
            save_png(_curves(check, measure, means), picture)
            table = _table(means, columns)
        parts += [f"## {measure}", "", *table, "", f"![{measure}]({picture.name})", ""]
    failed = [row for row in rows if "error" in row]
    if failed:
        parts += [f"{len(failed)} of {len(rows)} comparisons failed, the first: {failed[0]['error']}", ""]
    path = folder / "report.md"
    try:
        path.write_text("\n".join(parts), "utf-8")
    except OSError as error:
        raise OutputError("the report cannot be written", got=str(error)) from error
    return path


def _with_values(means: Mapping[tuple[Any, ...], Mean]) -> dict[tuple[Any, ...], Mean]:
    """Pairs of the methods that a measure is defined for at all: most methods have no negative values."""
    there = {name for pair, mean in means.items() if mean.defined for name in pair}
    return {pair: mean for pair, mean in means.items() if there.issuperset(pair)}


def matrix(title: str, names: Sequence[str], means: Mapping[tuple[Any, ...], Mean]) -> Image.Image:
    """A value per pair of methods, on the colours of maps; -1 (or 0) is dark and 1 bright. The diagonal is left out."""
    side = _CELL * len(names)
    page = Image.new("RGB", (_SIDE + side + 20, 50 + side + _SIDE), _PAPER)
    draw, small, large = ImageDraw.Draw(page), ImageFont.load_default(12), ImageFont.load_default(18)
    draw.text((12, 12), title, fill=_INK, font=large)
    known = [mean.value for mean in means.values() if mean.defined]
    low = -1.0 if min(known) < 0 else 0.0
    for (first, second), mean in means.items():
        for row, column in ((first, second), (second, first)):
            x, y = _SIDE + _CELL * names.index(column), 50 + _CELL * names.index(row)
            if not mean.defined:
                draw.text((x + _CELL / 2, y + _CELL / 2), "–", fill=_INK, font=small, anchor="mm")
                continue
            red, green, blue = COLOURS[round(255 * (mean.value - low) / (1 - low))].tolist()
            ink = _PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 128 else _INK
            draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=(red, green, blue))
            draw.text((x + _CELL / 2, y + _CELL / 2), f"{mean.value:.2f}", fill=ink, font=small, anchor="mm")
    for place, name in enumerate(names):
        middle = place * _CELL + _CELL / 2
        draw.text((_SIDE - 8, 50 + middle), name, fill=_INK, font=small, anchor="rm")
        page.paste(_upright(name), (round(_SIDE + middle - 10), 54 + side))
    return page


def _of_image(rows: Sequence[Row]) -> list[Row]:
    """Rows of the cosine, which is the image's and not a method's: once each."""
    first = rows[0]["method"]
    return [{**row, "method": "cosine"} for row in rows if row["method"] == first]


def _upright(name: str) -> Image.Image:
    strip = Image.new("RGB", (_SIDE - 8, 20), _PAPER)
    ImageDraw.Draw(strip).text((_SIDE - 12, 10), name, fill=_INK, font=ImageFont.load_default(12), anchor="rm")
    return strip.rotate(90, expand=True)


def _curves(check: str, measure: str, means: Mapping[tuple[Any, ...], Mean]) -> Image.Image:
    """A line per method; one that is undefined at a step is drawn at 0 there, as the table's dash tells."""
    columns = list(dict.fromkeys(key[1] for key in means))
    methods = list(dict.fromkeys(key[0] for key in means))
    shares = [k / max(1, len(columns) - 1) for k in range(len(columns))] if check == "weights" else [
        sigma / 255 for sigma in columns
    ]  # fmt: skip
    curves = {name: np.nan_to_num([means[name, column].value for column in columns]) for name in methods}
    said = "steps from the top that were drawn anew" if check == "weights" else "noise, in % of the range of levels"
    return chart(f"{measure}: {said}", shares, curves, measure)


def _table(means: Mapping[tuple[Any, ...], Mean], columns: Sequence[Any]) -> list[str]:
    methods = list(dict.fromkeys(key[0] for key in means))
    lines = [f"| method | {' | '.join(map(str, columns))} |", "| --- |" + " ---: |" * len(columns)]
    lines += [f"| {name} | {' | '.join(str(means[name, column]) for column in columns)} |" for name in methods]
    flat = [f"{name}, {column}: {mean.undefined}" for (name, column), mean in means.items() if mean.undefined]
    return lines + (["", f"Undefined and left out (a flat map, or a failed one): {'; '.join(flat)}."] if flat else [])


def _pairs(names: Sequence[str], means: Mapping[tuple[Any, ...], Mean]) -> list[str]:
    def cell(row: str, column: str) -> str:
        mean = means.get((row, column)) or means.get((column, row))
        return "" if mean is None else f"{mean.value:.2f}" if mean.defined else "–"

    lines = [f"| | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    return lines + [f"| {row} | {' | '.join(cell(row, column) for column in names)} |" for row in names]


def _said(facts: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in facts.items()) + "."
