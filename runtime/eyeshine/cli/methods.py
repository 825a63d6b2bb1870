"""``eyeshine methods``: every method with its cost, what it reads, whether a bundle has that, settings, reference."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eyeshine.bundle import Bundle
    from eyeshine.methods import AnyMethod
    from eyeshine.text_side import TextMethod

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(methods)


def methods(
    name: Annotated[list[str] | None, typer.Argument(help="Of methods; all by default.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    side: Annotated[str, typer.Option(help="image, or text: those of `eyeshine explain --side text`.")] = "image",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """List the attribution methods: cost, what they read, what runs them in a bundle, settings, reference.

    Cost: "graph" (nothing beyond one run of a graph), "patches" (and arithmetic over patches), "passes" (many runs for
    each image), "seconds" (for one image).
    """
    from eyeshine.bundle import Bundle
    from eyeshine.checks import check_choice
    from eyeshine.methods import METHODS, get_method
    from eyeshine.text_side import TEXT_METHODS, get_text_method

    check_choice("side", side, ("image", "text"))
    opened = Bundle.open(bundle, verify=False)
    if side == "text":
        rows = [_text_row(get_text_method(each), opened) for each in name or TEXT_METHODS]
    else:
        rows = [_row(get_method(each), opened) for each in name or METHODS]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, default=asdict))
        return
    for row in rows:
        typer.echo(_text(row, opened.name))


def _text(row: dict[str, Any], bundle: str) -> str:
    """One method, a line for each thing that is said of it; a table would need 200 columns."""
    map_of = "" if row["uses_text"] else ", the same map for every text"
    where = row["cure"] and f"not in bundle {bundle}: {row['cure']}"
    lines = {
        "reads": ", ".join((*row["signals"], *row["needs"])),
        "runs": where or f"{', '.join(row['graphs'])} of bundle {bundle}",
        "set": ", ".join(f"{setting}={value}" for setting, value in row["settings"].items()),
        "from": row["reference"],
    }
    said = "".join(f"\n  {name:<6}{line}" for name, line in lines.items() if line)
    return f"{row['name']}: {row['cost']}{map_of}{said}"


def _row(method: AnyMethod, bundle: Bundle) -> dict[str, Any]:
    """One method as a record; ``graphs`` of the bundle run it, or ``cure`` says how to export one that has them."""
    from eyeshine.errors import SignalError
    from eyeshine.methods import by_passes, graph_method

    try:
        if by_passes(method):
            graphs = sorted({"encode", *method.graphs})
            for graph in graphs:
                bundle.graph(graph)
        else:
            reader = graph_method(method)
            graphs = [bundle.cheapest(reader.signals, reader.blocks)]
            if "head_projection" in reader.needs:
                bundle.head_projection(reader.blocks)
        cure = None
    except SignalError as error:
        graphs, cure = [], error.cure
    return _record(method, method.signals, graphs, cure)


def _text_row(method: TextMethod, bundle: Bundle) -> dict[str, Any]:
    """The same of a method of the text side."""
    from eyeshine.errors import SignalError
    from eyeshine.text_side.base import READ
    from eyeshine.text_side.run import graph_of

    signals = frozenset(signal for field in method.signals for signal in READ.get(field, (f"text_{field}",)))
    try:
        graph, _ = graph_of(bundle, method)
    except SignalError as error:
        return _record(method, signals, [], error.cure)
    return _record(method, signals, [graph], None)


def _record(method: AnyMethod, signals: frozenset[str], graphs: list[str], cure: str | None) -> dict[str, Any]:
    from eyeshine.methods.configure import settings_of

    return {
        "name": method.name,
        "cost": method.cost,
        "uses_text": method.uses_text,
        "signals": sorted(signals),
        "needs": sorted(method.needs),
        "graphs": graphs,
        "cure": cure,
        "settings": settings_of(method),
        "reference": method.reference,
    }
