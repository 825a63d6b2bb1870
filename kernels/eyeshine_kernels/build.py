"""All kernels as cubins for hosts without torch and Python, with a C header and the same facts as JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from eyeshine_kernels.aot import ARCHITECTURES, HIDDEN, MODULES
from eyeshine_kernels.backend import INTERPRET_VARIABLE, KernelError
from eyeshine_kernels.header import header

__all__ = ["FACTS", "HEADER", "KERNELS", "build", "check_architectures", "check_kernels"]

FACTS: Final = "kernels.json"
HEADER: Final = "eyeshine_kernels.h"
KERNELS: Final = {module.split(".")[1]: module for module in MODULES}
"""Modules by the name of their kernel."""


def check_architectures(architectures: Iterable[int]) -> tuple[int, ...]:
    """Sorted, each once.

    Raises:
        KernelError: none, or one that is not supported; triton would end the process on it.
    """
    wanted = tuple(sorted(set(architectures)))
    allowed = ", ".join(map(str, ARCHITECTURES))
    if not wanted:
        raise KernelError(f"no architecture to build for: got none, allowed {allowed}")
    for sm in wanted:
        if sm not in ARCHITECTURES:
            raise KernelError(f"unknown architecture: got sm {sm!r}, allowed {allowed}")
    return wanted


def check_kernels(kernels: Iterable[str] | None) -> tuple[str, ...]:
    """Modules of the named kernels, of all where none is named, in the order of ``MODULES``.

    Raises:
        KernelError: an unknown name.
    """
    wanted = set(kernels or KERNELS)
    for name in sorted(wanted - set(KERNELS)):
        raise KernelError(f"unknown kernel: got {name!r}, allowed {', '.join(KERNELS)}")
    return tuple(module for name, module in KERNELS.items() if name in wanted)


def build(folder: Path, architectures: Iterable[int], kernels: Iterable[str] | None = None) -> dict[str, Any]:
    """Compile kernels for each architecture and write ``sm_87/NAME.cubin``, a C header and ``kernels.json``.

    Nothing is written unless everything compiles. The same sources and the same triton give the same bytes.

    Args:
        folder: where to write; made if it is not there. An earlier build in it is replaced, whatever it was built for.
        architectures: compute capabilities, ten times over, of ``aot.ARCHITECTURES``.
        kernels: names of kernels (``KERNELS``), each with all its variants; None is all.

    Returns:
        The facts of ``kernels.json``.

    Raises:
        KernelError: an unknown architecture or kernel, no triton, or a kernel that does not compile.
        OSError: the files cannot be written.
    """
    wanted, modules = check_architectures(architectures), check_kernels(kernels)
    if importlib.util.find_spec("triton") is None:
        raise KernelError("kernels are compiled by triton, which is not installed: pip install 'triton>=3.9'")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
            reports = dict(zip(wanted, pool.map(lambda sm: _compile(sm, modules, scratch), wanted), strict=True))
        facts = _merged(reports)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FACTS).is_file():
            _clear(folder)
        for sm in wanted:
            shutil.copytree(scratch / f"sm_{sm}", folder / f"sm_{sm}")
    (folder / HEADER).write_text(header(facts), encoding="utf-8")
    (folder / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return facts


def _compile(sm: int, modules: tuple[str, ...], scratch: Path) -> dict[str, Any]:
    """In a process of its own: in this one Triton's interpreter may be on, and triton may end it."""
    here = str(Path(__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if name != INTERPRET_VARIABLE}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, (here, environment.get("PYTHONPATH")))),
        # Everything is compiled now, and no path of this machine gets into a cubin.
        "TRITON_CACHE_DIR": str(scratch / f"cache_{sm}"),
        "TRITON_DISABLE_LINE_INFO": "1",
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    command = [sys.executable, "-m", "eyeshine_kernels.aot", str(sm), str(scratch / f"sm_{sm}"), *modules]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"kernels do not compile for sm {sm}, triton says: {done.stderr[-2000:].strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _clear(folder: Path) -> None:
    """Remove the cubins of an earlier build, which the new header would not name."""
    for sm in ARCHITECTURES:
        if (folder / f"sm_{sm}").is_dir():
            shutil.rmtree(folder / f"sm_{sm}")


def _merged(reports: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Facts of each kernel once, with one cubin per architecture."""
    from importlib.metadata import version

    kernels: dict[str, Any] = {}
    for sm, report in reports.items():
        for name, found in report.items():
            own = ("shared_bytes", "cubin_bytes", "sha256")
            common = {key: value for key, value in found.items() if key not in own}
            cubin = {"file": f"sm_{sm}/{name}.cubin", **{key: found[key] for key in own}}
            kernels.setdefault(name, {**common, "cubins": {}})["cubins"][str(sm)] = cubin
    return {"triton": version("triton"), "hidden_arguments": HIDDEN, "kernels": kernels}
