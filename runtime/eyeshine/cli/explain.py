"""``eyeshine explain``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import EngineError, ImageError, OptionError, OutputError, ResponderError

if TYPE_CHECKING:
    from eyeshine.responder import Responder
    from eyeshine.targets import Against

__all__ = ["register"]

_CAPTION = "caption"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="A text; repeat for several.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for pictures and archives.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="See `eyeshine methods`.")] = "grad_eclip",
    side: Annotated[
        str, typer.Option(help="image (where it looked), text (which words of the texts), or both.")
    ] = "image",
    text_method: Annotated[str | None, typer.Option(help="Of the text side; by default --method.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="Why the texts rather than this; repeat.")] = None,
    against_rest: Annotated[bool, typer.Option("--against-rest", help="Rather than the other texts.")] = False,
    against_auto: Annotated[
        bool, typer.Option("--against-auto", help="Rather than what is in the image and least like the text.")
    ] = False,
    candidates: Annotated[
        str, typer.Option(help="For --against-auto: street, coco, a file, or caption: what the captioner names.")
    ] = "street",
    present: Annotated[int, typer.Option(help="For --against-auto: how many candidates count as present.")] = 10,
    expand: Annotated[
        float | None, typer.Option(help="Mix the kinds of each text (vehicle: car, bus) in, with this share, 0..1.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="NAME=VALUE of the method; repeat. See `eyeshine methods`.")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="JSON file of such settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image on stdout.")] = False,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    fallback: Annotated[list[str] | None, typer.Option(help="Provider to take where it is missing; repeat.")] = None,
    backend: Annotated[
        str, typer.Option(help="reference, or triton: maps by kernels on the engine's GPU.")
    ] = "reference",
    threads: Threads = 0,
    resize: Annotated[str | None, typer.Option(help="shortest, squash or keep; by default the bundle's.")] = None,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template with one {}; repeat to average.")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts longer than the context.")] = False,
    max_batch: Annotated[
        int | None, typer.Option(help="Most images of one forward pass of a method by passes; by default the engine's.")
    ] = None,
) -> None:
    """Show where the model looked in each image for each text, and which words of the text it looked for."""
    from eyeshine.cli.sides import configured, printed, saved
    from eyeshine.explainer import Explainer
    from eyeshine.methods.configure import parse_settings, read_settings
    from eyeshine.saving import Names, make_folder
    from eyeshine.targets import make_target
    from eyeshine.texts import check_texts

    if sum(map(bool, (against, against_rest, against_auto))) > 1:
        raise OptionError("--against, --against-rest and --against-auto exclude each other", cure="pass one of them")
    rather: Against = "rest" if against_rest else against or None
    if against_auto:
        from eyeshine.concept import ContrastOptions

        rather = ContrastOptions(candidates="street" if candidates == _CAPTION else candidates, top=present)
    # What is wrong with the request is said once, before any image is read.
    given = {**(read_settings(settings) if settings else {}), **parse_settings(setting or ())}
    chosen, for_text = configured(side, method, text_method, given)
    make_target(check_texts(text), None if against_auto else rather)
    if out is not None:
        make_folder(out)
    engine = options_of(provider, threads, precision, device)
    explainer = Explainer.load(
        bundle,
        provider=engine,
        fallback=fallback or (),
        backend=cast(Any, backend),  # Explainer checks it
        resize=resize,
        templates=template or (),
    )
    texts = text
    if expand is not None:
        from eyeshine.responder import HypernymTable, expand_text

        expanded = [expand_text(explainer, each, HypernymTable(), weight=expand, truncate=truncate) for each in text]
        texts = [each.vector for each in expanded]
        typer.echo("\n".join(map(str, expanded)), err=True)
    captioner = _captioner() if against_auto and candidates == _CAPTION else None
    names, failures = Names(), 0
    with _progress(images) as each:
        for image in each:
            try:
                here = rather if captioner is None else _captioned(rather, captioner, image)
                result = explainer.explain(
                    image, texts, method=chosen, against=here, truncate=truncate,
                    max_batch=max_batch, progress=len(images) == 1,  # one progress bar at a time
                    side=cast(Any, side), text_method=for_text,  # Explainer checks it
                )  # fmt: skip
                stem = names.stem(image)
                files = [] if out is None else saved(result, out, stem)
            except (ImageError, EngineError, OutputError, ResponderError) as error:
                failures += 1
                typer.echo(f"error: {image}: {error}", err=True)
                continue
            if as_json:
                typer.echo(json.dumps({"image": image, **result.record(), "outputs": files}, ensure_ascii=False))
            else:
                printed(image, result, files)
    if failures:
        typer.echo(f"error: {failures} of {len(images)} image(s) failed", err=True)
        raise typer.Exit(1)


def _captioner() -> Responder:
    from eyeshine.captioner import Captioner
    from eyeshine.responder import CaptionerResponder

    return CaptionerResponder(Captioner.load())


def _captioned(rather: Any, captioner: Responder, image: str) -> Any:
    """The choice of a contrast, from what the embedded captioner names in an image."""
    from eyeshine.concept.described import described

    return replace(rather, candidates=described(captioner, image))


@contextmanager
def _progress(images: list[str]) -> Iterator[Iterable[str]]:
    """The images, with a progress bar on stderr where it is a terminal and there are several."""
    from rich.console import Console

    console = Console(stderr=True)
    if len(images) < 2 or not console.is_terminal:
        yield images
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        yield progress.track(images, description="explaining")
