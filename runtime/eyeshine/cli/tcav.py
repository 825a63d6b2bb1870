"""``eyeshine tcav``: whether prompts depend on a concept that a folder of images shows, and how far it moves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import InputError

if TYPE_CHECKING:
    from eyeshine.images import ImageLike

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tcav)


def tcav(
    concept: Annotated[Path, typer.Argument(help="Folder with images of the concept; its name is the concept's.")],
    random: Annotated[Path, typer.Option(help="Folder with random images.")],
    images: Annotated[Path, typer.Option(help="Folder with the images that the texts are asked about.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="A text; repeat for several.")],
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="Exported with --signals hidden.")] = None,
    at: Annotated[str, typer.Option(help="Activations: class token, or mean of the patches (patches).")] = "class",
    blocks: Annotated[int, typer.Option(help="Blocks above the activations, 1..3.")] = 1,
    counterparts: Annotated[int, typer.Option(help="Classifiers of the concept, and as many of random images.")] = 20,
    bias: Annotated[bool, typer.Option("--audit", help="Also: how far the concept moves each similarity.")] = False,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Test whether texts depend on a concept (TCAV), and audit by how much."""
    from eyeshine.explainer import Explainer
    from eyeshine.tcav import TcavOptions, audit, train_concept
    from eyeshine.tcav import tcav as test

    options = TcavOptions(blocks=blocks, at=cast(Any, at), counterparts=counterparts)  # it checks ``at``
    shown, others, asked = (_images(folder) for folder in (concept, random, images))
    explainer = Explainer.load(bundle, provider=options_of(provider, threads, precision, device))
    record = test(explainer, concept.name, shown, others, asked, text, options).record()
    if bias:
        vector = train_concept(explainer, concept.name, shown, others, options)
        record["audit"] = audit(explainer, vector, asked, text).record()["prompts"]
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    learned = "learned" if record["learned"] else "not learned: nothing below is significant"
    typer.echo(
        f"{record['concept']}: told apart {record['accuracy']:.3f}, chance {record['random_accuracy']:.3f}, {learned}"
    )
    for number, row in enumerate(record["prompts"]):
        line = f"{row['text']}: score {row['score']:.3f}, random {row['random_score']:.3f}, p {row['p_value']:.2g}"
        line += ", significant" if row["significant"] else ""
        if bias:
            moved = record["audit"][number]
            low, high = moved["interval"]
            line += f"; moved by {moved['shift']:+.4f}, random directions {low:+.4f} to {high:+.4f}"
        typer.echo(line)


def _images(folder: Path) -> list[ImageLike]:
    """The files of a folder, in the order of their names."""
    if not folder.is_dir():
        raise InputError("no such folder of images", got=str(folder))
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
