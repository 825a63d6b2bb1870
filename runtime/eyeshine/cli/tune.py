"""``eyeshine tune``: the best settings of a method on a validation split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from eyeshine.cli import study
from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import OptionError

__all__ = ["register"]

_FIRST = 400_000  # after the first held-out seed; the training was set up on earlier ones
_ETA = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tune)


def tune(
    method: Annotated[str, typer.Option("--method", "-m", help="See `eyeshine methods`.")],
    grid: Annotated[
        list[str], typer.Option("--grid", "-g", help="NAME=VALUE,VALUE,... (or with ; between them); repeat.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of settings.json, trials and records.")],
    metric: Annotated[list[str] | None, typer.Option(help="See `eyeshine metrics`, or a preset.")] = None,
    column: Annotated[str | None, typer.Option(help="Of a preset with several: the column that decides.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", "-s", help="NAME=VALUE of all candidates.")] = None,
    halving: Annotated[bool, typer.Option("--halving", help="Drop the worse candidates after fewer samples.")] = False,
    eta: Annotated[int | None, typer.Option(help="Of --halving: one of so many goes on; by default 3.")] = None,
    dataset: Annotated[
        str, typer.Option(help="roads, roads-cluttered, captions, karpathy, folders or coco; see `evaluate`.")
    ] = "roads",
    data: study.Data = None,
    images_folder: study.ImagesFolder = None,
    split: Annotated[
        str | None, typer.Option(help="val, restval or train: of karpathy, and what other files are.")
    ] = None,
    names: study.Names = None,
    texts: study.TextsOf = None,
    first: study.First = None,
    limit: Annotated[int, typer.Option("--limit", "--scenes", help="Samples of the last round.")] = 100,
    seeds: study.Seeds = "0",
    resume: study.Resume = False,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    max_batch: Annotated[int, typer.Option(help="Most images of one forward pass.")] = 32,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
) -> None:
    """Search a grid of settings on data that no result is reported of; write what `explain --settings` reads."""
    from eyeshine import roads
    from eyeshine.explainer import Explainer
    from eyeshine.methods.configure import parse_settings
    from eyeshine.study import get_preset
    from eyeshine.study.tune import SETTINGS, Tuning
    from eyeshine.study.tune import tune as search

    if eta is not None and not halving:
        raise OptionError("--eta is of --halving", cure="pass --halving, too")
    if first is None and dataset.startswith("roads"):
        first = roads.HELD_OUT_FROM + _FIRST
    preset = get_preset(tuple(metric or ("deletion",)), cast(Any, texts or "label"))  # the data set checks it
    of_file = (split or "val") if dataset == "karpathy" else None
    source = study.Source(dataset, data, images_folder, of_file, names, texts, first, limit)
    tuning = Tuning(
        method=method, grid=_grid(grid), preset=preset, dataset=source.open(preset.texts), split=split, column=column,
        fixed=parse_settings(setting or ()), scenes=limit, eta=(eta or _ETA) if halving else None,
        seeds=study.seeds_of(seeds), max_batch=max_batch,
    )  # fmt: skip
    explainer = Explainer.load(bundle, provider=options_of(provider, threads, precision, device))
    found = search(tuning, explainer, out, resume=resume)
    for trial in found.trials:
        value = "undefined" if trial.value is None else f"{trial.value:.4f}"
        kept = " *" if trial.kept else ""
        typer.echo(f"round {trial.rung + 1}, {trial.samples} samples: {trial.name} {value}{kept}")
    low, high = found.margin_interval
    told = "" if found.decisive else "; these samples do not tell them apart"
    typer.echo(f"better than {found.second} by {found.margin:.4f} [{low:.4f}, {high:.4f}]{told}")
    typer.echo(out / SETTINGS)


def _grid(pairs: list[str]) -> dict[str, list[Any]]:
    """``NAME=VALUE,VALUE``; with ``;`` between values that hold commas."""
    from eyeshine.methods.configure import parse_settings

    grid: dict[str, list[Any]] = {}
    for pair in pairs:
        name, equals, values = pair.partition("=")
        if not equals or not values:
            raise OptionError("a grid is NAME=VALUE,VALUE", got=repr(pair))
        for value in values.split(";" if ";" in values else ","):
            ((setting, parsed),) = parse_settings([f"{name}={value}"]).items()
            grid.setdefault(setting, []).append(parsed)
    return grid
