"""The options that choose an engine, the same for every command, and ``eyeshine build-engine``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eyeshine.errors import EngineError, OptionError

if TYPE_CHECKING:
    from eyeshine.engine import EngineOptions, TensorRtOptions

__all__ = ["Device", "Precision", "Provider", "Threads", "options_of", "register"]

Provider = Annotated[str, typer.Option(help="cpu, cuda, tensorrt or openvino; `eyeshine doctor` says which run here.")]
Precision = Annotated[
    str | None,
    typer.Option(help="What openvino or tensorrt compute in: fp32, fp16, bf16; by default fp32 or the bundle's."),
]
Device = Annotated[int | None, typer.Option(help="Index of the GPU, for cuda and tensorrt.")]
Threads = Annotated[int, typer.Option(help="For cpu and openvino; 0 takes all CPUs.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("build-engine")(build_engine)


def options_of(provider: str, threads: int = 0, precision: str | None = None, device: int | None = None) -> Any:
    """The engine's options that the flags of a command stand for.

    Raises:
        OptionError: an unknown provider, or a flag that it does not have.
    """
    from eyeshine.engine import OpenVinoOptions, TensorRtOptions, engine_options

    options: Any = engine_options(provider, threads=threads)
    if precision is not None:
        field = {OpenVinoOptions: "inference_precision", TensorRtOptions: "arithmetic"}.get(type(options))
        if field is None:
            raise OptionError(
                f"provider {provider} computes in the bundle's precision", got=f"--precision {precision}",
                cure="eyeshine export ... --precision",
            )  # fmt: skip
        options = replace(options, **{field: precision})
    if device is not None:
        if not hasattr(options, "device"):
            raise OptionError("--device is for GPUs", got=f"provider {provider}", allowed="cuda, tensorrt")
        options = replace(options, device=device)
    return options


def build_engine(
    bundle: Annotated[Path | None, typer.Argument(help="By default the embedded roads model.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or bf16; by default the bundle's.")] = None,
    images: Annotated[str, typer.Option(help="Least, usual and most images of a call.")] = "1,1,8",
    texts: Annotated[str, typer.Option(help="Least, usual and most texts of a call.")] = "1,10,100",
    capture: Annotated[str | None, typer.Option(help="Images,texts of the one size to capture instead.")] = None,
    graph: Annotated[list[str] | None, typer.Option(help="Only this graph; repeat.")] = None,
    device: Annotated[int, typer.Option(help="Index of the GPU.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where engines are kept; by default the cache folder.")] = None,
) -> None:
    """Build a bundle's TensorRT engines, check them against the golden values, and keep them for `--provider tensorrt`.

    Takes minutes; explaining never builds. An engine fits this GPU, these versions and these sizes alone.
    """
    from eyeshine.bundle import Bundle
    from eyeshine.engine import TensorRtOptions

    options = TensorRtOptions(
        device=device,
        arithmetic=cast(Any, precision),  # TensorRtOptions checks it
        images=cast(Any, _sizes("--images", images)),
        texts=cast(Any, _sizes("--texts", texts)),
        capture=cast(Any, None if capture is None else _sizes("--capture", capture)),
        folder=folder,
        build=True,
    )
    options.check_available()
    opened = Bundle.open(bundle)
    for name in graph or sorted(opened.manifest.graphs):
        seconds = _build(opened, name, options)
        typer.echo(f"{name}: built and checked in {seconds:.0f} s, {options.cache(opened, name)}")


def _build(bundle: Any, name: str, options: TensorRtOptions) -> float:
    """Build one engine and gate it; returns the seconds it took."""
    from eyeshine.engine import open_session
    from eyeshine.verify import gate

    started = perf_counter()
    chosen: EngineOptions = options
    try:
        gate(bundle, name, open_session(bundle, name, chosen), chosen, again=True)
    except EngineError:
        shutil.rmtree(options.cache(bundle, name), ignore_errors=True)  # or it would be loaded the next time
        raise
    seconds = perf_counter() - started
    options.mark_built(bundle, name, {**options.metadata(), "seconds": round(seconds, 1)})
    return seconds


def _sizes(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{flag} takes numbers with commas between them", got=repr(text)) from None
