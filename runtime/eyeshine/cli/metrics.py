"""``eyeshine metrics``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["metrics"]


def metrics(as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False) -> None:
    """List the metrics, and the presets of single images and of data sets."""
    from eyeshine.metrics import METRICS, PRESETS
    from eyeshine.study.presets import PRESETS as STUDIES

    if as_json:
        rows = [
            {
                "name": name,
                "preset": preset,
                "direction": metric.direction,
                "unit": metric.unit,
                "needs": sorted(metric.needs),
                "images": sum(view.count for view in metric.views),
                "reference": metric.reference,
            }
            for preset, found in [(None, METRICS), *PRESETS.items()]
            for name, metric in found.items()
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "better", "unit", "needs", "images")
    for name, metric in METRICS.items():
        images = sum(view.count for view in metric.views)
        table.add_row(name, metric.direction, metric.unit, ", ".join(sorted(metric.needs)), str(images))
    Console().print(table)
    for preset, found in PRESETS.items():
        typer.echo(f"preset {preset}: {', '.join(found)}")
    for study in STUDIES.values():
        typer.echo(f"preset {study.name} (--dataset): {', '.join(column.title for column in study.columns)}")
