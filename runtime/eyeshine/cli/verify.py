"""``eyeshine verify`` and ``eyeshine doctor``: is this bundle right here, and what can this machine run?"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_EXPORT_NEEDS = ("torch", "open_clip", "onnx_ir", "safetensors")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(verify)
    app.command()(doctor)


def verify(
    bundle: Annotated[Path | None, typer.Argument(help="By default the embedded roads model.")] = None,
    threads: Annotated[int, typer.Option(help="0 takes all CPUs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Run a bundle's golden inputs here and compare the outputs with autograd's; exit 1 where one differs."""
    from eyeshine.bundle import Bundle
    from eyeshine.engine import CpuOptions
    from eyeshine.verify import verify as run

    result = run(Bundle.open(bundle), CpuOptions(threads))
    if as_json:
        typer.echo(json.dumps({**asdict(result), "passed": result.passed}))
    else:
        for check in result.checks:
            mark = "ok" if check.passed else "WRONG"
            typer.echo(f"{mark:5s} {check.graph}.{check.output}: {check.error:.1e} (allowed {check.tolerance:.0e})")
        state = "passed" if result.passed else "FAILED"
        typer.echo(f"{result.bundle} on {result.engine['provider']}, {result.engine['threads']} threads: {state}")
    if not result.passed:
        raise typer.Exit(1)


def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    from eyeshine.bundle import Bundle
    from eyeshine.engine import CpuOptions
    from eyeshine.verify import verify as run

    typer.echo(f"eyeshine {_version('eyeshine')}, Python {platform.python_version()}, {platform.platform()}")
    options = CpuOptions()
    result = run(Bundle.open(), options)
    worst = max(check.error for check in result.checks)
    state = "yes" if result.passed else "NO"
    typer.echo(
        f"{state:4s} explain on the CPU: onnxruntime {_version('onnxruntime')}, {options.threads} threads, "
        f"embedded bundle {'verified' if result.passed else 'WRONG'}, largest error {worst:.1e}"
    )
    missing = [package for package in _EXPORT_NEEDS if find_spec(package) is None]
    if missing:
        typer.echo(f"no   export: {', '.join(missing)} missing; pip install '.[export]' in eyeshine's source folder")
    else:
        typer.echo(f"yes  export: torch {_version('torch')}, open_clip {_version('open_clip_torch')}")
    typer.echo("no   explain on CUDA, TensorRT or OpenVINO: this version runs graphs on the CPU only")
    if not result.passed:
        raise typer.Exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
