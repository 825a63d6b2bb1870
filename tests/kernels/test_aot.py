"""Every kernel compiles for every supported architecture on a machine without a GPU."""

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eyeshine_kernels.aot import ARCHITECTURES, MODULES

ROOT = Path(__file__).parents[2]

# In a process of its own: triton aborts the whole process on a target it does not know, and in this one the
# interpreter is on.
PROGRAM = """
import json, sys
from eyeshine_kernels.aot import compiled, variants
sm, report = int(sys.argv[1]), {}
for name, variant in variants().items():
    asm = compiled(variant, sm).asm
    report[name] = [len(asm["cubin"]), f".target sm_{sm}" in asm["ptx"]]
print(json.dumps(report))
"""


def compiled(sm, folder):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": str(ROOT / "kernels"),
        "TRITON_CACHE_DIR": str(folder),  # an empty one, so that everything is compiled now
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(sm)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished subprocess for each architecture, two at a time: most of it is importing and compiling."""
    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path_factory.mktemp(f"sm{sm}") for sm in ARCHITECTURES]
        return dict(zip(ARCHITECTURES, pool.map(compiled, ARCHITECTURES, folders), strict=True))


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_every_kernel_compiles_ahead_of_time(sm, runs):
    done = runs[sm]
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert sorted(report) == sorted(name for module in MODULES for name in importlib.import_module(module).AOT)
    assert all(size > 0 and target for size, target in report.values()), report


def test_an_architecture_that_does_not_exist_fails(tmp_path):
    assert compiled(101, tmp_path).returncode != 0


def test_every_kernel_module_is_in_the_list():
    folder = ROOT / "kernels" / "eyeshine_kernels"
    assert {f"eyeshine_kernels.{path.parent.name}.kernel" for path in folder.glob("*/kernel.py")} == set(MODULES)
