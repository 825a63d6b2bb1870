"""``eyeshine dual``: does an answer rest on what the prompt asks for, and on the image?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import OptionError, OutputError

if TYPE_CHECKING:
    from eyeshine.dual import Answerer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dual)


def dual(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What is asked about the image.")],
    answer: Annotated[
        str | None, typer.Option("--answer", "-a", help="What was answered; or name a responder.")
    ] = None,
    blind_answer: Annotated[
        str | None, typer.Option(help="What was answered to the same prompt without the image: shows guesses.")
    ] = None,
    responder: Annotated[
        str | None, typer.Option(help="Whom to ask: captioner, or a chat server's address, http://localhost:8000/v1")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The responder's model, as its server names it.")] = None,
    ask_blind: Annotated[bool, typer.Option(help="Ask the responder again, without the image.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the figure and its JSON.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="See `eyeshine methods`.")] = "grad_eclip",
    candidates: Annotated[
        str, typer.Option(help="What may be in the image: street, coco, or a file with one text a line.")
    ] = "street",
    metrics: Annotated[bool, typer.Option(help="Concept Drop and Negative Suppression of all concepts.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
) -> None:
    """Explain a prompt and its answer on one image, compare the maps, and say whether the answer rests on the image."""
    from eyeshine.dual import DualOptions, explain_dual
    from eyeshine.explainer import Explainer
    from eyeshine.saving import make_folder

    asked = _responder(responder, model, answer)
    options = DualOptions(method=method, candidates=candidates, metrics=metrics, ask_blind=ask_blind)
    if out is not None:
        make_folder(out)
    explainer = Explainer.load(bundle, provider=options_of(provider, threads, precision, device))
    result = explain_dual(explainer, image, prompt, answer, responder=asked, blind_answer=blind_answer, options=options)
    record = {"image": str(image), **result.record()}
    files = [] if out is None else _save(result, record, out, image.stem)
    if as_json:
        typer.echo(json.dumps({**record, "outputs": files}, ensure_ascii=False))
        return
    typer.echo(f"{image}: {result.verdict.name}")
    for line in [*result.verdict.reasons, *files]:
        typer.echo(f"  {line}")


def _responder(address: str | None, model: str | None, answer: str | None) -> Answerer | None:
    """The responder that the flags name.

    Raises:
        OptionError: an answer and a responder, neither, or a responder without a model.
    """
    if (answer is None) == (address is None):
        got = "neither" if answer is None else "both"
        raise OptionError("one answer is needed", got=got, allowed="--answer, or --responder")
    if address is None:
        return None
    if address == "captioner":
        from eyeshine.captioner import Captioner
        from eyeshine.responder import CaptionerResponder

        return CaptionerResponder(Captioner.load())
    if model is None:
        raise OptionError("a responder needs a model", got="--responder alone", cure="name it with --model")
    from eyeshine.responder import ChatResponder

    return ChatResponder(address, model)


def _save(result: Any, record: dict[str, Any], folder: Path, stem: str) -> list[str]:
    """Write STEM.dual.png and STEM.dual.json."""
    from eyeshine.render import save_png

    picture, facts = folder / f"{stem}.dual.png", folder / f"{stem}.dual.json"
    save_png(result.figure(), picture)
    try:
        facts.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise OutputError("JSON cannot be written", got=str(error), cure="name another folder") from error
    return [str(picture), str(facts)]
