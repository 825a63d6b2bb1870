"""Inference engines: options say how, a ``Session`` runs one graph and says which provider ran it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eyeshine.bundle import Bundle
from eyeshine.engine.cpu import CpuOptions, OrtCpuSession
from eyeshine.engine.cuda import CudaOptions
from eyeshine.engine.openvino import OpenVinoOptions
from eyeshine.engine.session import DeviceArray, DeviceResult, EngineOptions, RunResult, Session, check_session
from eyeshine.engine.tensorrt import TensorRtOptions
from eyeshine.errors import EngineError, OptionError

__all__ = [
    "ENGINES",
    "CpuOptions",
    "CudaOptions",
    "DeviceArray",
    "DeviceResult",
    "EngineOptions",
    "OpenVinoOptions",
    "OrtCpuSession",
    "RunResult",
    "Session",
    "TensorRtOptions",
    "check_session",
    "choose",
    "engine_options",
    "open_session",
]

ENGINES: Final[dict[str, type[CpuOptions | CudaOptions | TensorRtOptions | OpenVinoOptions]]] = {
    options.engine: options for options in (CpuOptions, CudaOptions, TensorRtOptions, OpenVinoOptions)
}
"""Every engine's options, by its short name."""


def engine_options(
    provider: str | EngineOptions, *, threads: int = 0, capture: tuple[int, int] | None = None
) -> EngineOptions:
    """The options that a name stands for; options as they are.

    Args:
        provider: a key of ``ENGINES``, or options.
        threads: for the engines on the CPU; 0 takes all CPUs of the process.
        capture: (images, texts) for the engines on a GPU.

    Raises:
        OptionError: an unknown name, or threads or capture for an engine that has none, or beside options.
    """
    if not isinstance(provider, str):
        if threads or capture is not None:
            raise OptionError("threads and capture stand in the options", cure="pass them there")
        return provider
    if provider not in ENGINES:
        raise OptionError("unknown provider", got=repr(provider), allowed=", ".join(ENGINES))
    kind = ENGINES[provider]
    if issubclass(kind, CpuOptions | OpenVinoOptions):
        if capture is not None:
            raise OptionError("capture needs a GPU", got=f"provider {provider}", allowed="cuda, tensorrt")
        return kind(threads)
    if threads:
        raise OptionError("threads are for engines on the CPU", got=f"provider {provider}", allowed="cpu, openvino")
    return kind(capture=capture)


def choose(asked: EngineOptions, fallback: Sequence[EngineOptions] = ()) -> tuple[EngineOptions, str | None]:
    """The first engine that this machine can run, and why it is not the one that was asked for.

    Raises:
        EngineError: what was asked for is missing, and so is every fallback; the message is that of the first.
    """
    reason: EngineError | None = None
    for options in (asked, *fallback):
        try:
            options.check_available()
        except EngineError as error:
            reason = reason or error
        else:
            return options, None if reason is None else str(reason)
    assert reason is not None
    raise reason


def open_session(bundle: Bundle, graph: str, options: EngineOptions) -> Session:
    """Load a graph and check that its tensors are those of the manifest.

    Raises:
        BundleError: graph and manifest disagree.
        EngineError: the engine is not there, or refuses the graph.
    """
    options.check_available()
    session = options.open(bundle, graph)
    check_session(session, bundle.graph(graph))
    return session
