"""``eyeshine statistics``: what each head looks at, how alike the maps of texts are, how much of them lies in a box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeshine.cli.engines import Threads
from eyeshine.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(statistics)


def statistics(
    image: Annotated[str, typer.Argument(help="An image file.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="A text; repeat for several.")],
    method: Annotated[str, typer.Option("--method", "-m", help="See `eyeshine methods`.")] = "grad_eclip",
    layers: Annotated[int, typer.Option(help="Heads of how many of the last blocks.")] = 1,
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 in pixels of the image.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="By default the embedded roads model.")] = None,
    other: Annotated[Path | None, typer.Option(help="A second bundle, to compare the maps with.")] = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Entropy and distance of each head's attention, and of the maps: rank correlation over texts, bundles, a box."""
    from eyeshine.explainer import Explainer
    from eyeshine.statistics import agreement, consistency, head_statistics, share_inside

    edges = None if box is None else _edges(box)
    explainer = Explainer.load(bundle, threads=threads)
    result = explainer.explain(image, text, method=method)
    record: dict[str, Any] = {
        "image": image,
        "texts": text,
        "method": method,
        "heads": head_statistics(explainer, image, layers=layers).record(0),
        "consistency": _plain(consistency(result)),
    }
    if edges is not None:
        record["share_inside"] = share_inside(result, edges).tolist()
    if other is not None:
        second = Explainer.load(other, threads=threads).explain(image, text, method=method)
        record["agreement"] = _plain(agreement(result, second)[0])
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    for head in record["heads"]:
        typer.echo(
            f"block {head['block']} head {head['head']}: entropy {head['entropy_bits']:.2f} bits, "
            f"{head['distance_patches']:.2f} patches ({head['distance_px']:.0f} px) from its centre, "
            f"class token {head['class_share']:.3f}"
        )
    for number, line in enumerate(text):
        others = [_signed(rho) for place, rho in enumerate(record["consistency"][number]) if place != number]
        parts = [f"rank correlation with the others {', '.join(others)}"] if others else []
        parts += [f"inside the box {record['share_inside'][number]:.3f}"] if edges is not None else []
        parts += [f"rank correlation with {other} {_signed(record['agreement'][number])}"] if other is not None else []
        if parts:
            typer.echo(f"{line}: {'; '.join(parts)}")


def _plain(values: NDArray[Any]) -> Any:
    """Correlations as lists, None where there is none: JSON has no NaN."""
    plain = values.astype(object)
    plain[values != values] = None
    return plain.tolist()


def _signed(rho: float | None) -> str:
    return "none (a flat map)" if rho is None else f"{rho:+.3f}"


def _edges(box: str) -> tuple[float, ...]:
    try:
        edges = tuple(float(part) for part in box.split(","))
    except ValueError:
        edges = ()
    if len(edges) != 4:
        raise OptionError("--box takes four numbers", got=repr(box), allowed="x0,y0,x1,y1")
    return edges
