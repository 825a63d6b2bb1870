"""Which backend computes maps from an engine's signals, and whether it can."""

from __future__ import annotations

from typing import Literal

from eyeshine.engine import EngineOptions
from eyeshine.errors import EngineError, OptionError
from eyeshine_kernels.backend import KernelError, interpreting, resolve

__all__ = ["Backend", "check_backend"]

Backend = Literal["reference", "triton"]


def check_backend(backend: Backend, options: EngineOptions) -> Backend:
    """The backend, if it can run on what the engine leaves.

    Raises:
        OptionError: an unknown one, or "triton" with an engine that is not on a GPU.
        EngineError: the kernels cannot run here; the message names what to install.
    """
    if backend not in ("reference", "triton"):
        raise OptionError("unknown backend", got=repr(backend), allowed="reference, triton")
    try:
        resolve(backend)
    except KernelError as error:
        raise EngineError("the Triton kernels cannot run here", got=str(error)) from error
    if backend == "triton" and options.device_type != "cuda" and not interpreting():
        raise OptionError(
            "backend triton needs an engine on the GPU", got=f"provider {options.engine}", allowed="cuda, tensorrt"
        )
    return backend
