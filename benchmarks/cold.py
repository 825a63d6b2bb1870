"""Cold start: how long a fresh process takes from its start to its first map, with the embedded model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate import Facts, check
from benchmarks.judge import timing_rows
from benchmarks.registry import CASES, GROUPS
from benchmarks.rows import Row
from benchmarks.timing import Timings
from eyeshine import Explainer
from eyeshine.verify import TOLERANCES

__all__ = ["rows", "start"]

_ROOT = Path(__file__).parent.parent
# What a user's shortest program does. It prints its map when it has it; the clock is the parent's, so that starting
# Python counts.
_PROGRAM: Final = """
import json, sys
import numpy as np
from eyeshine import Explainer
image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
maps = Explainer.load(threads=int(sys.argv[1])).explain(image, ["a car"]).maps
print(json.dumps(maps.tolist()), flush=True)
"""


def rows(origin: Mapping[str, Any], model: str, threads: int, rounds: int) -> list[Row]:
    """Rows of "cold-first" and "cold".

    "cold-first" begins with an empty cache folder: the numeric gate runs at the first load. "cold" follows with the
    folder that it left. Files of the package are in the system's cache; what it takes to read them from a disk is not
    measured.

    Args:
        origin: fields of ``Row`` that are the same for the whole run.
        model: short name.
        threads: of the engine.
        rounds: processes of each kind; one more of each goes before them and is not counted.

    Raises:
        RuntimeError: a process failed.
        GateError: its map is not that of this process.
    """
    names = GROUPS["cold"].cases
    explainer = Explainer.load(threads=threads)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    expected = {"maps": explainer.explain(image, ["a car"]).maps}
    wall_ms: dict[str, list[float]] = {name: [] for name in names}
    errors = dict.fromkeys(names, 0.0)
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as cache:
            for name in ("cold-first", "cold"):
                elapsed_ms, maps = start(threads, cache)
                errors[name] = max(errors[name], check(name, {"maps": maps}, expected, TOLERANCES["fp32"]))
                if number:
                    wall_ms[name].append(elapsed_ms)
    provider = explainer.options.metadata()["provider"]
    facts = {name: Facts(CASES[name], provider, bundle_hash=explainer.bundle.hash) for name in names}
    timings = Timings({name: np.array(times) for name, times in wall_ms.items()})
    return timing_rows(origin, model, "cold", timings, facts, errors)


def start(threads: int, cache: str) -> tuple[float, NDArray[np.float32]]:
    """Milliseconds from the start of a process to its map, and the map [B, P, h, w].

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-c", _PROGRAM, str(threads)]
    environment = {**os.environ, "EYESHINE_CACHE": cache}
    with tempfile.TemporaryFile() as errors:
        started = perf_counter()
        with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed_ms = (perf_counter() - started) * 1e3
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"the process that explains one image failed:\n{errors.read().decode()}")
    return elapsed_ms, np.array(json.loads(line), np.float32)
