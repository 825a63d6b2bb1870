"""The report of a study: a Markdown table and pictures, from the records alone but for the picture strip."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyeshine.errors import EyeshineError, OptionError, OutputError
from eyeshine.metrics import Degradation
from eyeshine.metrics.retrieval import Recall
from eyeshine.render import save_png
from eyeshine.study.charts import chart, degradation_strip
from eyeshine.study.records import read_header, read_records
from eyeshine.study.retrieval import score_retrieval
from eyeshine.study.table import Cell, Table, tabulate

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.study.preset import Preset
    from eyeshine.study.run import Study

__all__ = ["markdown", "write_report"]

_ARROW = {"higher": "↑", "lower": "↓"}
_STRIPS, _SHOWN = 2, 4  # samples and methods of the picture strip


def write_report(study: Study, explainer: Explainer | None, folder: Path) -> Path:
    """Write ``report.md``, ``curves-METRIC.png`` where there are curves, and ``strip-N.png``.

    Args:
        study: whose records lie in ``folder``.
        explainer: draws the picture strip, which None leaves out, and scores retrieval.
        folder: of the study.

    Returns:
        The Markdown file.

    Raises:
        OptionError: there are no records, or retrieval without an explainer.
        OutputError: it cannot be written.
    """
    header = read_header(folder)
    records = read_records(folder)
    if any(isinstance(metric, Recall) for metric in study.preset.metrics.values()):
        if explainer is None:
            raise OptionError("retrieval is scored with the model", got="no explainer", cure="pass it")
        # Failures stay in the records; scores are of the samples that no method failed on.
        failed = (record for record in read_records(folder) if "error" in record)
        records = chain(score_retrieval(study, explainer, folder), failed)
    table = tabulate(study.preset, records)
    pictures = _draw_curves(study.preset, table, folder)
    if explainer is not None and any(metric.views for metric in study.preset.metrics.values()):
        pictures += _draw_strips(study, explainer, folder)
    lines = [markdown(study.preset, table, header), *_levels(study.preset, table)]
    lines += [f"![{path.stem}]({path.name})\n" for path in pictures]
    path = folder / "report.md"
    try:
        path.write_text("\n".join(lines), "utf-8")
    except OSError as error:
        raise OutputError("the report cannot be written", got=str(error)) from error
    return path


def markdown(preset: Preset, table: Table, header: dict[str, Any]) -> str:
    """The table with what has to be known to read it."""
    identity, facts = header["identity"], header["facts"]
    data = ", ".join(f"{key} {value}" for key, value in identity["dataset"].items())
    most = max((*table.samples.values(), 0))
    titles = [f"{column.title} {_ARROW[preset.metrics[column.metric].direction]}" for column in table.columns]
    lines = [
        f"# {preset.name}",
        "",
        preset.note,
        "",
        f"{most} samples of {data}. Model {facts['bundle']}, bundle {identity['bundle'][:12]}, seeds "
        f"{', '.join(map(str, identity['seeds']))}; eyeshine {identity['eyeshine']}, {facts.get('provider', '')}.",
        "",
        f"| method | {' | '.join(titles)} | samples | cost |",
        "| --- |" + " ---: |" * (len(titles) + 2),
    ]
    for method in identity["methods"]:
        cells = [_cell(table, method, column.title) for column in table.columns]
        cost = f"{table.cost[method]:.1f}" if method in table.cost else "–"
        lines.append(f"| {method} | {' | '.join(cells)} | {table.samples.get(method, 0)} | {cost} |")
    lines += ["", *_notes(table, identity)]
    return "\n".join(lines) + "\n"


def _levels(preset: Preset, table: Table) -> list[str]:
    """The score at each level of a degradation: it has few, and they are what the paper shows."""
    lines: list[str] = []
    for (metric, _), curves in table.curves.items():
        own: Any = preset.metrics[metric]
        if isinstance(own, Degradation):
            lines += [
                f"Mean {own.unit} with so much of the patches occluded, hottest first ({metric}):",
                "",
                f"| method | {' | '.join(f'{share:.0%}' for share in own.shares)} |",
                "| --- |" + " ---: |" * len(own.shares),
                *(f"| {name} | {' | '.join(f'{value:.4f}' for value in curve)} |" for name, curve in curves.items()),
                "",
            ]
    return lines


def _cell(table: Table, method: str, title: str) -> str:
    cell: Cell | None = table.cells.get(method, {}).get(title)
    if cell is None:
        return "–"
    value = f"**{cell.value:.4f}**" if table.best.get(title) == method else f"{cell.value:.4f}"
    spread = "" if cell.std is None else f" ± {cell.std:.4f}"
    low, high = cell.interval
    return f"{value}{spread} [{low:.4f}, {high:.4f}]"


def _notes(table: Table, identity: dict[str, Any]) -> list[str]:
    lines = [
        "In brackets the 95 % interval over samples (bootstrap, the same draws for all methods); after ± the standard "
        "deviation over seeds, where something is drawn. Bold: better than the second beyond the interval of their "
        "difference. Every row was measured in this study; none is copied from a paper.",
        "",
    ]
    if table.cost:
        lines += [
            f"Cost: median time of an explanation, all texts of the image, over that of encoding the image alone "
            f"({table.encode_ms:.1f} ms), both measured on every sample in turn.",
            "",
        ]
    for method, count in table.failures.items():
        first = "; ".join(f"{key}: {error}" for key, error in table.failed[method].items())
        lines += [f"{method}: {count} sample(s) failed and are not in the table. {first}", ""]
    for method, row in table.cells.items():
        for title, cell in row.items():
            if cell.undefined:
                lines += [f"{method}, {title}: {cell.undefined} undefined value(s) left out.", ""]
    changed = {name: {k: v for k, v in facts.items() if k != "method"} for name, facts in identity["methods"].items()}
    settings = "; ".join(
        f"{name}: {', '.join(f'{k}={v}' for k, v in own.items())}" for name, own in changed.items() if own
    )
    return [*lines, f"Settings: {settings}.", ""] if settings else lines


def _draw_curves(preset: Preset, table: Table, folder: Path) -> list[Path]:
    """One chart per metric that has curves and role."""
    written = []
    for (metric, role), curves in table.curves.items():
        own: Any = preset.metrics[metric]
        said = "" if role == "truth" else f", {role} label explained"
        path = folder / f"curves-{metric.replace('@', '-at-')}{'' if role == 'truth' else f'-{role}'}.png"
        save_png(chart(f"{metric}{said}: mean curves", own.shares, curves, own.unit), path)
        written.append(path)
    return written


def _draw_strips(study: Study, explainer: Explainer, folder: Path) -> list[Path]:
    """The first samples that can be read, occluded by the first methods."""
    written: list[Path] = []
    methods = {name: study.method(name, study.seeds[0]) for name in list(study.methods)[:_SHOWN]}
    for sample in islice(study.dataset.samples(), study.limit):
        if len(written) == _STRIPS:
            break
        try:
            strip = degradation_strip(explainer, sample.open(), methods, truncate=study.truncate)
        except EyeshineError:  # recorded as failed when it was run
            continue
        path = folder / f"strip-{len(written) + 1}.png"
        save_png(strip, path)
        written.append(path)
    return written
