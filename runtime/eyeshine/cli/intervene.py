"""``eyeshine intervene``: take a part of the model or of the image away, and see what becomes of the similarity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eyeshine.explainer import Explainer
    from eyeshine.interventions import Intervention, Sweep

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(intervene)


def intervene(
    image: Annotated[str, typer.Argument(help="Image file.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="A text; repeat for several.")],
    head: Annotated[list[str] | None, typer.Option(help="BLOCK.HEAD to ablate, from 0; repeat.")] = None,
    block: Annotated[
        list[str] | None, typer.Option(help="BLOCK, BLOCK.attention or BLOCK.mlp to pass over; repeat.")
    ] = None,
    patch: Annotated[list[str] | None, typer.Option(help="ROW,COLUMN of a patch, from 0; repeat.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Image of the photo's size, on black: patches it covers.")] = None,
    fill: Annotated[str, typer.Option(help="What becomes of the patches: remove, mean, black or blur.")] = "remove",
    replace_by: Annotated[
        str | None, typer.Option(help="Replace the patches' features: mean (of the others), or an image file.")
    ] = None,
    depth: Annotated[int, typer.Option(help="For --replace-by: at how many blocks before the end, 1..3.")] = 1,
    each: Annotated[str | None, typer.Option(help="Take every part away in turn: heads, blocks or patches.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts longer than the context.")] = False,
) -> None:
    """Change a part of the model or of the image, and compare the similarities with those of what was there."""
    from eyeshine.explainer import Explainer

    changed = any((head, block, patch, mask, replace_by))
    if each is not None and changed:
        raise OptionError("--each takes every part away in turn, and nothing beside it", got=f"--each {each}")
    if patch and mask:
        raise OptionError("--patch and --mask exclude each other", cure="pass one of them")
    heads = [_numbers(entry, ".", "BLOCK.HEAD") for entry in head or ()]
    blocks = [_block(entry) for entry in block or ()]
    explainer = Explainer.load(bundle, provider=options_of(provider, threads, precision, device))
    if each is not None:
        swept = explainer.ablate_each(image, text, each, truncate=truncate)  # type: ignore[arg-type]  # it checks it
        _show(swept, as_json, _strongest)
        return
    changes: dict[str, Any] = {"heads": heads, "blocks": blocks, "fill": fill, "depth": depth}
    where = _patches(patch, explainer) if patch else None if mask is None else _mask(mask)
    if replace_by is not None and where is None:
        raise OptionError("--replace-by needs patches", cure="--patch or --mask")
    changes |= {"tokens": where} if replace_by is None else {"region": where, "by": replace_by}
    _show(explainer.intervene(image, text, truncate=truncate, **changes), as_json, _changes)


def _show(result: Any, as_json: bool, lines: Any) -> None:
    typer.echo(json.dumps(result.record(), ensure_ascii=False) if as_json else "\n".join(lines(result)))


def _changes(result: Intervention) -> list[str]:
    rows = zip(result.texts, result.before, result.after, result.change, strict=True)
    return [
        f"{'; '.join(result.changes)}, {result.wall_ms:.1f} ms",
        *(f"  {before:+.3f} -> {after:+.3f}  ({change:+.3f})  {text}" for text, before, after, change in rows),
    ]


def _strongest(result: Sweep) -> list[str]:
    lines = [f"{result.encoded} images encoded, {result.wall_ms:.1f} ms"]
    for prompt, text in enumerate(result.texts):
        lines.append(f"{result.before[prompt]:+.3f}  {text}")
        lines += [
            f"  {change:+.4f}  without {_named(result.what, place)}" for place, change in result.strongest(prompt)
        ]
    return lines


def _named(what: str, place: tuple[int, int]) -> str:
    first, second = place
    if what == "heads":
        return f"head {first}.{second}"
    return f"{('attention', 'mlp')[second]} of block {first}" if what == "blocks" else f"patch {first},{second}"


def _numbers(entry: str, between: str, form: str) -> tuple[int, int]:
    first, found, second = entry.partition(between)
    if not found or not first.strip().isdecimal() or not second.strip().isdecimal():
        raise OptionError("two whole numbers", got=repr(entry), allowed=form)
    return int(first), int(second)


def _block(entry: str) -> Any:
    """A block, or a pair of a block and its part; the model checks them."""
    number, found, part = entry.partition(".")
    if not number.strip().isdecimal():
        raise OptionError("a block is a whole number", got=repr(entry), allowed="BLOCK, BLOCK.attention, BLOCK.mlp")
    return (int(number), part) if found else int(number)


def _patches(entries: list[str], explainer: Explainer) -> NDArray[np.bool_]:
    import numpy as np

    grid = explainer.bundle.manifest.grid
    chosen = np.zeros(grid, bool)
    for entry in entries:
        row, column = _numbers(entry, ",", "ROW,COLUMN")
        if row >= grid[0] or column >= grid[1]:
            raise OptionError("no such patch", got=entry, allowed=f"0..{grid[0] - 1},0..{grid[1] - 1}")
        chosen[row, column] = True
    return chosen


def _mask(path: Path) -> NDArray[np.bool_]:
    import numpy as np

    from eyeshine.images import load_image

    return np.asarray(load_image(path).any(axis=2))
