"""``eyeshine inspect``: what a bundle says about itself, after its hashes were checked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(inspect)


def inspect(
    bundle: Annotated[Path | None, typer.Argument(help="By default the embedded roads model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON on stdout.")] = False,
) -> None:
    """Show a bundle's model, graphs, shapes, precision, hashes, parity and licence."""
    from eyeshine.bundle import Bundle

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    if as_json:
        typer.echo(json.dumps({**asdict(manifest), "hash": opened.hash}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    model = manifest.model
    facts = Table(show_header=False, title=f"bundle {manifest.name}")
    for name, value in {
        "model": model.name,
        "source": model.source,
        "licence": model.licence,
        "tower": f"{model.layers} blocks, width {model.width}, {model.heads} heads, {model.activation}",
        "image": f"{_by(model.image_size)} pixels, patches of {_by(model.patch_size)}, grid {_by(manifest.grid)}",
        "joint space": f"{model.embed_dim} dimensions, logit scale {model.logit_scale:.2f}, bias {model.logit_bias}",
        "tokenizer": f"{manifest.tokenizer.context_length} tokens at most, cleaning {manifest.tokenizer.clean}",
        "precision": f"{manifest.precision}, opset {manifest.opset}",
        "exported by": ", ".join(f"{package} {version}" for package, version in manifest.exporter.items()),
        "hash": opened.hash,
    }.items():
        facts.add_row(name, str(value))
    console.print(facts)
    graphs = Table("graph", "tensor", "shape", "blocks", "error against autograd", title="graphs")
    for name, graph in manifest.graphs.items():
        for tensor, info in {**graph.inputs, **graph.outputs}.items():
            error = manifest.parity.get(name, {}).get(tensor)
            blocks = "" if info.blocks is None else ", ".join(map(str, info.blocks))
            shape = " x ".join(map(str, info.dims))
            graphs.add_row(name, tensor, shape, blocks, "" if error is None else f"{error:.1e}")
    console.print(graphs)
    files = Table("file", "bytes", Column("sha256 (checked)", overflow="fold"), title="files")
    for file, stated in manifest.files.items():
        files.add_row(file, f"{stated.bytes:,}", stated.sha256)
    console.print(files)


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"
