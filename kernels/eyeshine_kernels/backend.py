"""Which code computes a kernel: NumPy (the definition) or Triton. Neither torch nor triton is imported by an import."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

__all__ = ["INTERPRET_VARIABLE", "Backend", "KernelError", "check_kind", "interpreting", "next_power_of_2", "resolve"]

Backend: TypeAlias = Literal["reference", "triton"]

# Triton reads it when a kernel is decorated, so it has to be set before the first import of a kernel module.
INTERPRET_VARIABLE: Final = "TRITON_INTERPRET"

_DTYPES: Final = ("float32", "float16", "bfloat16")


class KernelError(RuntimeError):
    """A kernel was asked for something it cannot do; the message says what was got, what is allowed and the cure.

    This package stands alone (it never imports eyeshine), so its error has a root of its own.
    """


def interpreting() -> bool:
    """Whether Triton's CPU interpreter is on: the values that triton itself reads as true."""
    return os.environ.get(INTERPRET_VARIABLE, "").lower() in {"1", "true", "yes", "on", "y"}


def resolve(backend: Backend | None) -> Backend:
    """Return the backend that will run, checked; nothing falls back to another one.

    Args:
        backend: "reference" (NumPy), "triton", or None for "reference".

    Raises:
        KernelError: an unknown name, or "triton" without triton, torch, or a CUDA device (or the interpreter).
    """
    if backend is None:
        return "reference"
    if backend not in get_args(Backend):
        raise KernelError(f"unknown kernel backend: got {backend!r}, allowed {', '.join(get_args(Backend))}")
    if backend == "triton":
        _require_triton()
    return backend


def _require_triton() -> None:
    for wheel in ("triton", "torch"):
        if importlib.util.find_spec(wheel) is None:
            raise KernelError(
                f"backend 'triton' needs the wheel {wheel}, which is not installed: "
                "pip install 'eyeshine[kernels]', or take backend 'reference'"
            )
    if interpreting():
        return
    import torch

    if not torch.cuda.is_available():
        build = "a CPU-only build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        raise KernelError(
            f"backend 'triton' needs a CUDA device and torch {torch.__version__} ({build}) sees none: install a CUDA "
            f"build of torch and a driver, or take backend 'reference'; for tests, {INTERPRET_VARIABLE}=1 set before "
            "the first import of a kernel runs it on the CPU, slowly"
        )


def check_kind(named: Mapping[str, Any], backend: Backend) -> None:
    """Check that inputs are what a backend computes on: NumPy arrays of floats, or contiguous tensors on one GPU.

    Args:
        named: inputs by name; the first says which device.
        backend: resolved.

    Raises:
        KernelError: an input of another kind, dtype, layout or device.
    """
    if backend == "triton":
        _check_tensors(named)
        return
    for name, entry in named.items():
        if not isinstance(entry, np.ndarray) or entry.dtype.kind != "f":
            got = entry.dtype if isinstance(entry, np.ndarray) else type(entry).__name__
            raise KernelError(f"{name}: got {got}, backend 'reference' takes NumPy arrays of floats")


def _check_tensors(named: Mapping[str, Any]) -> None:
    import torch

    allowed = {getattr(torch, dtype) for dtype in _DTYPES}
    first, leading = next(iter(named.items()))
    for name, entry in named.items():
        if not isinstance(entry, torch.Tensor):
            raise KernelError(f"{name}: got {type(entry).__name__}, backend 'triton' takes torch tensors")
        if entry.dtype not in allowed:
            raise KernelError(f"{name}: got {entry.dtype}, allowed {', '.join(_DTYPES)}")
        if not entry.is_contiguous():
            raise KernelError(f"{name}: got strides {entry.stride()}, allowed contiguous only; call .contiguous()")
        if entry.device != leading.device:
            raise KernelError(f"{name}: got device {entry.device}, {first} is on {leading.device}")
        if not entry.is_cuda and not interpreting():
            raise KernelError(f"{name}: got device {entry.device}, backend 'triton' takes CUDA tensors")


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least ``number``, and at least 1: sizes of Triton's blocks."""
    return 1 << max(number - 1, 0).bit_length()
