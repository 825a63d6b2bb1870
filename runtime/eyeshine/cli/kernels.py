"""``eyeshine kernels build``: the Triton kernels as cubins for hosts without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Triton kernels for what stays around the graph.")
    group.command()(build)
    app.add_typer(group, name="kernels")


def build(
    sm: Annotated[list[int], typer.Option("--sm", help="Compute capability, 87 for 8.7; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier build in it is replaced.")] = Path("cubins"),
    kernel: Annotated[list[str] | None, typer.Option(help="Only this kernel; may be repeated.")] = None,
) -> None:
    """Compile the kernels to cubins with a C header; needs triton, but neither torch nor a GPU."""
    from eyeshine.errors import EyeshineError, OptionError
    from eyeshine_kernels.backend import KernelError
    from eyeshine_kernels.build import HEADER, check_architectures, check_kernels
    from eyeshine_kernels.build import build as run

    try:
        check_architectures(sm)
        check_kernels(kernel)
    except KernelError as error:
        raise OptionError(str(error)) from error
    try:
        facts = run(out, sm, kernel)
    except KernelError as error:
        raise EyeshineError(str(error)) from error
    cubins = [cubin for entry in facts["kernels"].values() for cubin in entry["cubins"].values()]
    size = sum(cubin["cubin_bytes"] for cubin in cubins)
    typer.echo(f"{len(cubins)} cubins, {size:,} bytes, and {out / HEADER}: triton {facts['triton']}")
