"""Every kernel compiles for every supported architecture on a machine without a GPU."""

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)

# One line per kernel module. Its AOT names what is compiled: {variant: {"kernel": the jitted function, "signature":
# {argument: type}, "constants": {argument: value}, "num_warps": int}}.
MODULES = (
    "eyeshine_kernels.relevance.kernel",
    "eyeshine_kernels.multiscale.kernel",
    "eyeshine_kernels.normalize.kernel",
    "eyeshine_kernels.head_scores.kernel",
    "eyeshine_kernels.upsample.kernel",
    "eyeshine_kernels.overlay.kernel",
)

# In a process of its own: triton aborts the whole process on a target it does not know, and in this one the
# interpreter is on.
PROGRAM = """
import importlib, json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
sm, modules, report = int(sys.argv[1]), json.loads(sys.argv[2]), {}
for module in modules:
    for name, variant in importlib.import_module(module).AOT.items():
        kernel, types = variant["kernel"], {**dict.fromkeys(variant["constants"], "constexpr"), **variant["signature"]}
        assert set(types) == set(kernel.arg_names), set(types) ^ set(kernel.arg_names)
        signature = {argument: types[argument] for argument in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=variant["constants"])
        options = {"num_warps": variant["num_warps"], "enable_fp_fusion": True}
        done = compile(source, target=GPUTarget("cuda", sm, 32), options=options)
        report[name] = [len(done.asm["cubin"]), f".target sm_{sm}" in done.asm["ptx"]]
print(json.dumps(report))
"""


def compiled(sm, folder, modules=MODULES):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": str(ROOT / "kernels"),
        "TRITON_CACHE_DIR": str(folder),  # an empty one, so that everything is compiled now
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(sm), json.dumps(modules)]
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
