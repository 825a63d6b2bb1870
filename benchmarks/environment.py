"""Where a figure comes from: machine, versions, commit. No host names and no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["machine", "revision", "versions"]

_ROOT = Path(__file__).parent.parent
_LIBRARIES = {
    "eyeshine": "eyeshine",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "open_clip": "open_clip_torch",
}


def machine() -> dict[str, Any]:
    """CPU model, CPUs this process may use, memory, operating system, and how busy it was before."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": f"{platform.system()} {platform.machine()}",
        "load_1m": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Python and the libraries that a figure depends on."""
    found = {name: importlib.metadata.version(package) for name, package in _LIBRARIES.items()}
    return {"python": platform.python_version(), **found}


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
