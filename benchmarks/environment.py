"""Where a figure comes from: machine, GPUs, versions, commit. No host names and no paths."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eyeshine.engine.machine import gpus
from eyeshine.errors import EngineError

__all__ = ["describe", "driver_version", "machine", "origin", "revision", "versions"]

_ROOT = Path(__file__).parent.parent
_LIBRARIES = (
    "eyeshine",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt-cu13",
    "torch",
    "triton",
    "open_clip_torch",
)


def origin() -> dict[str, Any]:
    """The fields of a row that are the same for all rows of a run."""
    run = datetime.now(UTC).isoformat(timespec="seconds")
    return {"run": run, "machine": machine(), "versions": versions(), **revision()}


def describe(origin: Mapping[str, Any]) -> str:
    """One line about where figures come from."""
    where, listed = origin["machine"], ", ".join(f"{key} {value}" for key, value in origin["versions"].items())
    gpus = "".join(f", {gpu['name']}" for gpu in where.get("gpus", ()))
    gpus += f" (driver {where['driver']})" if where.get("driver") else ""
    commit = (origin["commit"] or "no commit")[:12] + (" with changes" if origin["dirty"] else "")
    return f"{where['cpu']}, {where['cpus']} CPUs{gpus}, {where['os']}; {listed}; {commit}"


def machine() -> dict[str, Any]:
    """CPU model, CPUs this process may use, memory, operating system, how busy it was before, GPUs with driver."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": f"{platform.system()} {platform.machine()}",
        "load_1m": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpus": _gpus(),
        "driver": driver_version(),
    }


def versions() -> dict[str, str]:
    """Python and the libraries that a figure depends on, those that are installed."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    return found


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Of NVIDIA's kernel module, "580.65.06"; None where there is none."""
    try:
        found = re.search(r"\b\d{3}(\.\d+)+\b", path.read_text("utf-8"))
    except OSError:
        return None
    return found[0] if found else None


def _gpus() -> list[dict[str, Any]]:
    """As the driver names them; ``cuda`` is the highest CUDA version that it takes, 13000 for 13.0."""
    try:
        return [{"name": gpu.name, "sm": gpu.sm, "cuda": gpu.driver} for gpu in gpus()]
    except EngineError:
        return []


def revision(root: Path = _ROOT) -> dict[str, Any]:
    """Commit, and whether the tree holds other changes than results; None where there is no repository."""
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
