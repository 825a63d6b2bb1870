"""What this machine is: its CPU, and its NVIDIA GPUs as the driver itself names them (no torch, no nvidia-smi)."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eyeshine.errors import EngineError

__all__ = ["Gpu", "cpu_name", "gpus", "package_version"]

_DRIVER = {"Linux": "libcuda.so.1", "Windows": "nvcuda.dll"}
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        index: as CUDA counts them.
        name: as the driver says it.
        sm: compute capability, 87 for 8.7.
        driver: highest CUDA version that the driver takes, 13000 for 13.0.
    """

    index: int
    name: str
    sm: int
    driver: int


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to this process, at least one.

    Raises:
        EngineError: no driver, or no GPU.
    """
    library = _DRIVER.get(platform.system())
    try:
        if library is None:
            raise OSError(f"CUDA does not run on {platform.system()}")
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise EngineError("no NVIDIA driver", got=str(error), cure="install the driver, or use the CPU") from error
    count, driver = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDriverGetVersion", ctypes.byref(driver))
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise EngineError("the NVIDIA driver shows no GPU", cure="check CUDA_VISIBLE_DEVICES, or use the CPU")
    return tuple(_gpu(cuda, index, driver.value) for index in range(count.value))


def _gpu(cuda: ctypes.CDLL, index: int, driver: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGet", ctypes.byref(device), index)
    _call(cuda, "cuDeviceGetName", name, len(name), device)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, device)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(index, name.value.decode(errors="replace"), 10 * major.value + minor.value, driver)


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = getattr(cuda, function)(*arguments)
    if status:
        raise EngineError(
            "the NVIDIA driver gives no GPU", got=f"{function} returned {status}",
            cure="check that the driver is loaded and this process may use it, or use the CPU",
        )  # fmt: skip


@cache
def cpu_name() -> str:
    """The CPU model, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {names[0] if names else platform.processor()}".strip()


def package_version(*names: str) -> str:
    """Version of the first of the packages that is installed, with its name; "none" without any."""
    from importlib.metadata import PackageNotFoundError, version  # 15 ms that importing eyeshine need not cost

    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "none"
