"""Peak memory of a fresh process that explains one image.

``python -m benchmarks.memory FOLDER THREADS`` is that process; it must not import torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PeakMemory", "measure"]

_FACTOR, _FIXED_MB = 1.6, 150
_MB = 10**6


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident memory, and what it is compared with."""

    peak_bytes: int
    weights_bytes: int

    @property
    def limit_bytes(self) -> float:
        return _FACTOR * self.weights_bytes + _FIXED_MB * _MB

    @property
    def holds(self) -> bool:
        return self.peak_bytes <= self.limit_bytes


def measure(folder: Path, threads: int) -> PeakMemory:
    """Explain one image with the bundle in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", str(folder), str(threads)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that explains one image failed:\n{done.stderr}")
    return PeakMemory(**json.loads(done.stdout))


def _explain(folder: Path, threads: int) -> PeakMemory:
    import numpy as np

    from eyeshine import Explainer

    explainer = Explainer.load(folder, threads=threads)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    explainer.explain(image, ["a dog"])
    files = explainer.bundle.manifest.files
    weights = sum(info.bytes for name, info in files.items() if name.endswith(".bin"))
    return PeakMemory(_peak_bytes(), weights)


def _peak_bytes() -> int:
    """VmHWM: mapped files count as far as they were resident."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say VmHWM")


if __name__ == "__main__":
    result = _explain(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"peak_bytes": result.peak_bytes, "weights_bytes": result.weights_bytes}))
