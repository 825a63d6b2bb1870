"""The command line. Exit status 2 for usage, 1 for failures, no traceback unless ``--debug``."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from importlib.metadata import entry_points

import typer

from eyeshine.errors import EyeshineError, OptionError, TextError

__all__ = ["build", "main"]


def _version(value: bool) -> None:
    if value:
        from eyeshine import __version__

        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks; may stand anywhere."),
) -> None:
    """Where CLIP looked for each text, in the same pass, without torch."""


def build() -> typer.Typer:
    """The command line: our own commands, then those of other packages (the exporter's among them)."""
    from eyeshine.cli import (
        demo,
        dual,
        engines,
        evaluate,
        explain,
        inspect,
        intervene,
        kernels,
        methods,
        sanity,
        statistics,
        sweep,
        tcav,
        tune,
        verify,
    )

    app = typer.Typer(name="eyeshine", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_options)
    for module in (
        explain,
        methods,
        evaluate,
        statistics,
        tune,
        sanity,
        tcav,
        sweep,
        intervene,
        inspect,
        verify,
        engines,
        kernels,
        dual,
        demo,
    ):
        module.register(app)
    for entry in sorted(entry_points(group="eyeshine.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    warnings.showwarning = _show_warning
    if threading.current_thread() is threading.main_thread():
        # Ending as an exception does, so that a half-written bundle is cleared away.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        build()(arguments)
    except EyeshineError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, OptionError | TextError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        typer.echo(f"error: {type(error).__name__}: {error} (a defect; --debug shows where)", err=True)
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    typer.echo(f"warning: {message}", err=True)
