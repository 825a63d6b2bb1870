"""``eyeshine evaluate``: images, or a data set (see ``study.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeshine.cli import study
from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.cli.explain import _progress
from eyeshine.cli.metrics import metrics
from eyeshine.errors import EngineError, ImageError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eyeshine.targets import Against

__all__ = ["register"]

_MOST_OBJECTS = 64  # in one mask; a mask whose edges were smoothed has a colour per shade


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(evaluate)
    app.command()(metrics)


def evaluate(
    images: Annotated[list[str] | None, typer.Argument(help="Image files.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="A text; repeat for several.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="See `eyeshine metrics`; repeat.")] = None,
    preset: Annotated[list[str] | None, typer.Option(help="See `eyeshine metrics`; repeat.")] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="A negative text for all, or repeat: one for each.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="A text of the label set; repeat.")] = None,
    labels: Annotated[Path | None, typer.Option(help="File of the label set, one text per line.")] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="Image of the objects, on black, a colour for each; repeat: one per text.")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Most masked images of one forward pass.")] = 32,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "-m", help="See `eyeshine methods`; by default grad_eclip. Of --dataset: repeat, or all."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="NAME=VALUE of the method, METHOD.NAME=VALUE of one of several; repeat."),
    ] = None,
    against: Annotated[list[str] | None, typer.Option(help="Why the texts rather than this; repeat.")] = None,
    against_rest: Annotated[bool, typer.Option("--against-rest", help="Rather than the other texts.")] = False,
    against_auto: Annotated[
        bool,
        typer.Option("--against-auto", help="Rather than, and negative, what is in the image and least like the text."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image on stdout, with curves.")] = False,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
    resize: Annotated[str | None, typer.Option(help="shortest or squash; by default the bundle's.")] = None,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template with one {}; repeat to average.")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts longer than the context.")] = False,
    dataset: study.DatasetName = None,
    data: study.Data = None,
    images_folder: study.ImagesFolder = None,
    split: study.Split = None,
    shapes: study.Shapes = None,
    names: study.Names = None,
    texts: study.TextsOf = None,
    first: study.First = None,
    limit: study.Limit = None,
    seeds: study.Seeds = None,
    out: study.Out = None,
    resume: study.Resume = False,
    retry_failed: study.RetryFailed = False,
    strict: study.Strict = False,
    parquet: study.Parquet = False,
    ray: study.RayAt = None,
) -> None:
    """Score the maps of images and texts by how the model answers when hot regions are hidden or shown.

    With --dataset: those of a data set, by several methods under one protocol, with a report.
    """
    from rich.console import Console

    from eyeshine.explainer import Explainer
    from eyeshine.methods.configure import configure, parse_settings
    from eyeshine.metrics.presets import choose_metrics

    def load() -> Explainer:
        engine = options_of(provider, threads, precision, device)
        return Explainer.load(bundle, provider=engine, resize=resize, templates=template or ())

    methods, asked = method or ["grad_eclip"], [*(metric or ()), *(preset or ())]
    of_images: dict[str, object] = {
        "image files": images, "--text": text, "--negative": negative, "--label": label, "--labels": labels,
        "--mask": mask, "--json": as_json, "--against": against, "--against-rest": against_rest,
        "--against-auto": against_auto,
    }  # fmt: skip
    of_datasets: dict[str, object] = {
        "--data": data, "--images": images_folder, "--names": names, "--texts": texts, "--first": first,
        "--limit": limit, "--out": out, "--resume": resume, "--retry-failed": retry_failed, "--strict": strict,
        "--parquet": parquet, "--ray": ray, "--split": split, "--shapes": shapes, "--seeds": seeds,
    }  # fmt: skip
    if dataset is not None:
        study.check_absent(of_images, "an evaluation of a data set")
        source = study.Source(dataset, data, images_folder, split, names, texts, first, limit, shapes)
        study.run_study(
            load, source, methods, setting or [], asked, out, seeds=seeds, max_batch=max_batch, truncate=truncate,
            resume=resume, retry_failed=retry_failed, strict=strict, parquet=parquet, ray=ray,
        )  # fmt: skip
        return
    study.check_absent(of_datasets, "an evaluation of images")
    if not images or not text or len(methods) > 1:
        got = f"{len(images or ())} image(s), {len(text or ())} text(s), {len(methods)} method(s)"
        raise OptionError("images, --text and one --method; or --dataset", got=got, cure="eyeshine evaluate --help")
    if sum(map(bool, (against, against_rest, against_auto))) > 1:
        raise OptionError("--against, --against-rest and --against-auto exclude each other", cure="pass one of them")
    if mask and (len(images) > 1 or len(mask) not in (1, len(text))):
        got = f"{len(images)} image(s), {len(text)} text(s), {len(mask)} mask(s)"
        raise OptionError("--mask is for one image: one for all texts, or one for each", got=got)
    rather: Against = "rest" if against_rest else "auto" if against_auto else against or None
    label_set = [*(label or ()), *(_lines(labels) if labels else ())]
    truth: dict[str, Any] = {
        "negative": negative[0] if negative and len(negative) == 1 else negative or None,
        "labels": label_set or None,
        "masks": None if not mask else _mask(mask[0]) if len(mask) == 1 else [_mask(path) for path in mask],
    }
    # What is wrong with the request is said once, before any image is read.
    how = configure(methods[0], parse_settings(setting or ()))
    needs = {"contrast": "negative", "labels": "labels", "mask": "masks"}
    given = frozenset(need for need, name in needs.items() if truth[name] is not None)
    given |= {"contrast"} if against_auto else set()
    chosen = choose_metrics(asked or None, given)
    explainer = load()
    failures = 0
    with _progress(images) as each:
        for image in each:
            try:
                result = explainer.evaluate(
                    image,
                    text,
                    metrics=chosen,
                    method=how,
                    against=rather,
                    truncate=truncate,
                    max_batch=max_batch,
                    **truth,
                )
            except (ImageError, EngineError) as error:
                failures += 1
                typer.echo(f"error: {image}: {error}", err=True)
                continue
            if as_json:
                typer.echo(json.dumps({"image": image, **result.to_dict()}, ensure_ascii=False))
            else:
                made = f"{result.method}, {result.target}"
                typer.echo(f"{image}: {made}, {result.encoded} images encoded, {result.wall_ms:.1f} ms")
                Console().print(result.table())
    if failures:
        typer.echo(f"error: {failures} of {len(images)} image(s) failed", err=True)
        raise typer.Exit(1)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("the file of labels cannot be read", got=f"{path}: {error}", allowed="UTF-8 text") from error


def _mask(path: Path) -> NDArray[np.bool_]:
    """Bool [K, H, W]: one object per colour that is not black."""
    import numpy as np

    from eyeshine.images import load_image

    colours = load_image(path).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    found = np.unique(colours[colours > 0])
    if len(found) > _MOST_OBJECTS:
        cure = "save it without smoothing or JPEG compression"
        raise ImageError(
            "a mask of too many colours", got=f"{path}: {len(found)}", allowed=f"{_MOST_OBJECTS}", cure=cure
        )
    return colours == found[:, None, None] if len(found) else np.zeros((1, *colours.shape), np.bool_)
