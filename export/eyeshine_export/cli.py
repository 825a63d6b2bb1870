"""``eyeshine export``: reaches the command line through the entry-point group ``eyeshine.commands``.

This module imports nothing heavy, so that the command is listed, and says what to install, without the extra.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from eyeshine.errors import ExportError

__all__ = ["register"]

_NEEDS = ("torch", "open_clip", "onnx_ir", "safetensors")


def register(app: typer.Typer) -> None:
    """Add the command to eyeshine's command line."""
    app.command("export")(export)


def export(
    model: Annotated[str, typer.Argument(help="open_clip name, hf-hub:owner/name, or a model configuration (JSON).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")],
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag; downloads.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Local .safetensors or .pt instead.")] = None,
    layers: Annotated[int | None, typer.Option(help="Also write deep.onnx, the last K blocks explained.")] = None,
    signals: Annotated[str, typer.Option(help="Groups of further graphs, with commas between them, or all.")] = "",
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of a model without CLIP's own.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the manifest.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle; by default the folder's.")] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set: 23, or 20 for TensorRT before 10.14.")] = 23,
    precision: Annotated[str, typer.Option(help="fp32, fp16 (for GPUs) or int8 (for CPUs).")] = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Turn a CLIP checkpoint into a bundle of ONNX graphs, checked against autograd."""
    missing = [package for package in _NEEDS if find_spec(package) is None]
    if missing:
        raise ExportError(
            "exporting needs packages that the runtime does not", got=f"no {', '.join(missing)}",
            cure="pip install '.[export]' in eyeshine's source folder",
        )  # fmt: skip
    from eyeshine_export.source import resolve
    from eyeshine_export.write import ExportOptions, check_target, export_bundle

    groups = tuple(name.strip() for name in signals.split(",") if name.strip())
    options = ExportOptions(layers, name, force, opset, precision, groups)  # type: ignore[arg-type]
    check_target(out.resolve(), force)  # before anything is loaded or downloaded
    source = resolve(model, pretrained=pretrained, checkpoint=checkpoint, tokens=tokenizer, licence=licence)
    manifest = export_bundle(source, out, options)
    worst = max(error for outputs in manifest.parity.values() for error in outputs.values())
    size_mb = sum(file.bytes for file in manifest.files.values()) / 1e6
    typer.echo(
        f"{out}: {manifest.model.name} ({manifest.model.activation}), {', '.join(manifest.graphs)}, {size_mb:.1f} MB, "
        f"largest relative error against autograd {worst:.1e}"
    )
