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

from eyeshine.cli.engines import Device, Precision, Provider, Threads, options_of
from eyeshine.errors import EngineError

__all__ = ["register"]

_EXPORT_NEEDS = ("torch", "open_clip", "onnx_ir", "safetensors")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(verify)
    app.command()(doctor)


def verify(
    bundle: Annotated[Path | None, typer.Argument(help="By default the embedded roads model.")] = None,
    provider: Provider = "cpu",
    precision: Precision = None,
    device: Device = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Run a bundle's golden inputs here and compare the outputs with autograd's; exit 1 where one differs."""
    from eyeshine.bundle import Bundle
    from eyeshine.verify import verify as run

    result = run(Bundle.open(bundle), options_of(provider, threads, precision, device))
    if as_json:
        typer.echo(json.dumps({**asdict(result), "passed": result.passed}))
    else:
        for check in result.checks:
            mark = "ok" if check.passed else "WRONG"
            typer.echo(f"{mark:5s} {check.graph}.{check.output}: {check.error:.1e} (allowed {check.tolerance:.0e})")
        how = ", ".join(f"{key} {value}" for key, value in result.engine.items() if key != "provider")
        state = "passed" if result.passed else "FAILED"
        typer.echo(f"{result.bundle} on {result.engine['provider']} ({how}): {state}")
    if not result.passed:
        raise typer.Exit(1)


def doctor() -> None:
    """Say what this machine can run, and why not the rest; the embedded bundle is verified on what runs."""
    from eyeshine.engine import ENGINES

    typer.echo(f"eyeshine {_version('eyeshine')}, Python {platform.python_version()}, {platform.platform()}")
    wrong = [name for name in ENGINES if not _engine(name)]
    _kernels()
    missing = [package for package in _EXPORT_NEEDS if find_spec(package) is None]
    if missing:
        typer.echo(f"no   export: {', '.join(missing)} missing; pip install '.[export]' in eyeshine's source folder")
    else:
        typer.echo(f"yes  export: torch {_version('torch')}, open_clip {_version('open_clip_torch')}")
    if wrong:
        raise typer.Exit(1)


def _engine(name: str) -> bool:
    """Print what can be said of one engine; False where it is there and computes wrongly."""
    from eyeshine.bundle import Bundle
    from eyeshine.engine import engine_options
    from eyeshine.verify import verify as run

    options = engine_options(name)
    try:
        options.check_available()
        if name == "tensorrt":
            typer.echo("yes  explain on tensorrt: GPU and library are there; `eyeshine build-engine` builds and checks")
            return True
        result = run(Bundle.open(), options)
    except EngineError as error:
        typer.echo(f"no   explain on {name}: {error}")
        return True
    worst = max(check.error for check in result.checks)
    how = ", ".join(f"{key} {value}" for key, value in options.metadata().items())
    state, verdict = ("yes", "verified") if result.passed else ("NO", "WRONG")
    typer.echo(f"{state:4s} explain on {name}: {how}; embedded bundle {verdict}, largest error {worst:.1e}")
    return result.passed


def _kernels() -> None:
    """Print whether the Triton kernels can run."""
    from eyeshine.engine.machine import gpus

    missing = [package for package in ("torch", "triton") if find_spec(package) is None]
    try:
        found = ", ".join(f"{gpu.name} (sm_{gpu.sm})" for gpu in gpus())
    except EngineError as error:
        typer.echo(f"no   Triton kernels: {error}")
        return
    if missing:
        typer.echo(f"no   Triton kernels: {', '.join(missing)} missing; pip install 'eyeshine[kernels]'")
    else:
        typer.echo(f"yes  Triton kernels: triton {_version('triton')} on {found}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
