"""``eyeshine sweep``: what a setting does to the maps of one image, side by side (the paper's Figures 2, 3, 4, 7)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import OptionError

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.explanation import Explanation
    from eyeshine.render import Cell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sweep)


def sweep(
    image: Annotated[str, typer.Argument(help="Image file.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="A text; repeat for several.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("out"),
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Values of alpha, 0,.5,.8,1 (Figure 2).")] = None,
    beta: Annotated[str | None, typer.Option(help="Values of beta, .25,.5,1,2,10 (Figure 3).")] = None,
    strategy: Annotated[str | None, typer.Option(help="Strategies, layers,heads,both (Figure 4).")] = None,
    background: Annotated[str | None, typer.Option(help="Shares of background suppression, 0,.2,.5.")] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="Show the maps adjusted with this negative text, too (Figure 7).")
    ] = None,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
) -> None:
    """Draw one sheet per swept setting of `concept_attribution`: a row of maps for every text.

    Without any of them, alpha, beta and strategy are swept over the paper's values.
    """
    from eyeshine.explainer import Explainer
    from eyeshine.render import save_png, sheet
    from eyeshine.saving import make_folder

    asked = {"alpha": alpha, "beta": beta, "strategy": strategy, "background": background}
    swept = {name: _values(name, given) for name, given in asked.items() if given}
    if not swept and not negative:
        swept = {"alpha": [0, 0.5, 0.8, 1], "beta": [0.25, 0.5, 1, 2, 10], "strategy": ["layers", "heads", "both"]}
    methods = {name: [(value, _method(name, value)) for value in values] for name, values in swept.items()}
    explainer = Explainer.load(bundle, provider=options_of(provider, threads, precision, device))
    make_folder(out)
    for name, variants in methods.items():
        cells = _row_cells(explainer, image, text, name, variants)
        path = out / f"sweep-{name}.png"
        save_png(sheet(cells, title=f"concept_attribution: {name}", columns=len(variants), cell_width=260), path)
        typer.echo(path)
    if negative:
        path = out / "sweep-adjusted.png"
        save_png(sheet(_adjusted(explainer, image, text, negative), title="dynamic adjustment", columns=2), path)
        typer.echo(path)


def _row_cells(
    explainer: Explainer, image: str, texts: list[str], name: str, variants: list[tuple[Any, Any]]
) -> list[Cell]:
    """The pictures of a sheet, a row for every text."""
    results = [explainer.explain(image, texts, method=method) for _, method in variants]
    return [
        (f"{text}: {name} {value}, {_wall_ms(result):.0f} ms", result.overlay(0, prompt, scale="each"))
        for prompt, text in enumerate(texts)
        for (value, _), result in zip(variants, results, strict=True)
    ]


def _adjusted(explainer: Explainer, image: str, texts: list[str], negative: list[str]) -> list[Cell]:
    from eyeshine.concept.adjust import adjust

    plain = explainer.explain(image, texts, method="concept_attribution")
    changed = adjust(explainer, image, texts, negative[0] if len(negative) == 1 else negative)
    cells: list[Cell] = []
    for prompt, text in enumerate(texts):
        row = changed.details["adjustment"][0][prompt]
        scores = f"drop {_number(row['concept_drop'])}, suppression {_number(row['negative_suppression'])}"
        cells.append((f"{text}: as it was, {scores}", plain.overlay(0, prompt, scale="each")))
        cells.append((f"{text}: adjusted against {row['negative']}", changed.overlay(0, prompt, scale="each")))
    return cells


def _wall_ms(result: Explanation) -> float:
    """The time of a call without that of opening its graph."""
    return result.timings_ms["total"] - result.timings_ms["load"]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _values(name: str, given: str) -> list[Any]:
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if name == "strategy":
        return parts
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise OptionError(f"--{name} takes numbers with commas between them", got=repr(given)) from None


def _method(name: str, value: Any) -> Any:
    from eyeshine.methods.configure import configure

    return configure("concept_attribution", {name: value})
