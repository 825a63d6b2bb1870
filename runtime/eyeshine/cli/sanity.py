"""``eyeshine sanity``: what the maps of methods can be trusted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eyeshine.cli import study
from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import OptionError

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.study.sanity.maps import Row

__all__ = ["register"]

_SIGMAS, _SHARE, _SCENES = "2,5,10,20", 0.1, {"weights": 5, "noise": 20, "methods": 20}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sanity)


def sanity(
    check: Annotated[str, typer.Argument(help="weights, noise or methods.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of rows, report and pictures.")],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Repeat. By default all of one run that the bundle has graphs for."),
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", "-s", help="METHOD.NAME=VALUE; repeat.")] = None,
    draw: Annotated[str | None, typer.Option(help="Of weights: normal (the default), or permutation.")] = None,
    sigma: Annotated[str | None, typer.Option(help=f"Of noise: in levels of 0..255; by default {_SIGMAS}.")] = None,
    share: Annotated[float | None, typer.Option(help="Of noise, methods: share of patches that are the top.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Of weights (0,1,2,3,4) and noise (0,1,2).")] = None,
    dataset: Annotated[
        str, typer.Option(help="roads, roads-cluttered, captions, karpathy, folders or coco; see `evaluate`.")
    ] = "roads",
    data: study.Data = None,
    images_folder: study.ImagesFolder = None,
    split: study.Split = None,
    names: study.Names = None,
    texts: study.TextsOf = None,
    first: study.First = None,
    limit: Annotated[int | None, typer.Option("--limit", "--scenes", help="How many; by default 5 or 20.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
) -> None:
    """Compare maps: while the weights are drawn anew from the head down, under noise, or between methods."""
    from eyeshine.checks import check_choice
    from eyeshine.explainer import Explainer
    from eyeshine.study import sanity as checks

    check_choice("check", check, tuple(_SCENES))
    foreign: dict[str, object] = {
        "--draw": check != "weights" and draw, "--sigma": check != "noise" and sigma,
        "--share": check == "weights" and share, "--seeds": check == "methods" and seeds,
    }  # fmt: skip
    study.check_absent(foreign, f"the check of {check}")
    source = study.Source(dataset, data, images_folder, split, names, texts, first, limit or _SCENES[check])
    top = _SHARE if share is None else share
    options: Any
    run: Any
    if check == "weights":
        options = checks.Randomisation(cast(Any, draw or "normal"), study.seeds_of(seeds or "0,1,2,3,4"))
        run = checks.randomise_weights
    elif check == "noise":
        options = checks.Stability(_numbers(sigma or _SIGMAS), study.seeds_of(seeds or "0,1,2"), top)
        run = checks.add_noise
    else:
        options, run = checks.Disagreement(top), checks.compare_methods
    explainer = Explainer.load(bundle, provider=options_of(provider, threads, precision, device))
    opened = source.open("label")
    subjects = checks.Subjects(
        dataset=opened,
        methods=study.methods_of(method or _by_one_run(explainer), setting or [], "image"),
        limit=source.limit or 1,
    )
    rows = checks.write_rows(_tracked(run(explainer, subjects, options), check), out)
    facts = {
        "bundle": f"{explainer.bundle.name} {explainer.bundle.hash[:12]}",
        "samples": len({row["key"] for row in rows}),
        "maps of each method": len({(row["key"], row["text"]) for row in rows}),
        **asdict(options),
        **opened.describe(),
    }
    report = checks.write_report(cast(Any, check), rows, facts, out)
    typer.echo(report.read_text("utf-8"))
    typer.echo(report)


def _by_one_run(explainer: Explainer) -> list[str]:
    """Methods of one run of a graph that the bundle has."""
    from eyeshine.errors import SignalError
    from eyeshine.methods import METHODS, by_passes
    from eyeshine.study.run import check_graphs

    found = []
    for name, method in METHODS.items():
        with suppress(SignalError):
            check_graphs([method], explainer.bundle)
            found += [] if by_passes(method) else [name]
    return found


def _tracked(rows: Iterable[Row], what: str) -> Iterator[Row]:
    """The rows, counted on stderr where it is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    columns = "{task.description}", "{task.completed} comparisons"
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(rows, total=None, description=what)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError("--sigma takes numbers with commas between them", got=repr(text)) from None
