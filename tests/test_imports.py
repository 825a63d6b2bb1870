"""What an import costs, what it brings along, which way imports go, and what modules say they export."""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "eyeshine_kernels": ROOT / "kernels" / "eyeshine_kernels",
    "eyeshine": ROOT / "runtime" / "eyeshine",
    "eyeshine_export": ROOT / "export" / "eyeshine_export",
}
LIBRARIES = {"torch", "triton", "onnx", "onnx_ir", "onnxscript", "open_clip", "matplotlib", "safetensors"}
EXTRAS = {"sklearn", "scipy", "networkx", "pyarrow", "pandas", "pycocotools", "ray", "openai", "openvino"}
HEAVY = LIBRARIES | EXTRAS | {"eyeshine_export"}
SECONDS, TRIES = 0.4, 7  # .22 on a quiet machine, half of it numpy; thirty methods are thirty dataclasses


def modules_after(code):
    """Top-level names of the modules that a fresh interpreter holds after ``code``, and its seconds of CPU time."""
    program = f"""
import json, sys, time
before = set(sys.modules)
started = time.process_time()
{code}
seconds = time.process_time() - started
print(json.dumps([sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}), seconds]))
"""
    path = os.pathsep.join(str(folder.parent) for folder in PACKAGES.values())
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    names, seconds = json.loads(done.stdout)
    return set(names), seconds


def test_importing_the_runtime_is_light():
    names, _ = modules_after("import eyeshine")
    assert "eyeshine" in names
    assert names & HEAVY == set()


def test_importing_the_runtime_is_quick():
    times = [modules_after("import eyeshine")[1] for _ in range(TRIES)]
    assert min(times) <= SECONDS, times


def test_importing_the_command_line_is_light():
    names, _ = modules_after("import eyeshine.cli")
    assert names & HEAVY == set()


def test_the_checks_can_fail():
    names, seconds = modules_after(f"import eyeshine, onnx_ir\nwhile time.process_time() - started < {SECONDS}: pass")
    assert names & HEAVY
    assert seconds > SECONDS


def test_an_explanation_needs_no_torch(tiny_bundle):
    code = f"""
import numpy
from eyeshine import Explainer
explainer = Explainer.load({str(tiny_bundle)!r})
explainer.explain(numpy.zeros((40, 50, 3), numpy.uint8), ["a red car"]).heatmaps()
"""
    names, _ = modules_after(code)
    assert "onnxruntime" in names
    assert names & HEAVY == set()


def sources():
    return [(package, path) for package, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]


def imported(path):
    """Top-level names that a file imports, wherever in it, relative imports as the package's own."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(("package", "path"), sources(), ids=lambda value: getattr(value, "stem", value))
def test_imports_go_one_way(package, path):
    order = list(PACKAGES)
    later = set(order[order.index(package) + 1 :])
    assert imported(path) & later == set()
    if package == "eyeshine":
        # Explanations that stay on the GPU are torch tensors; that file alone imports it, inside its functions.
        assert imported(path) & LIBRARIES == ({"torch"} if path.stem == "device" else set())


def test_the_export_package_stands_on_the_runtime():
    """So that the test before can fail: such imports are found."""
    found = set().union(*(imported(path) for package, path in sources() if package == "eyeshine_export"))
    assert {"eyeshine", "torch", "onnx_ir"} <= found


def public_modules():
    """Names of modules that say what they export; the others are parts of a package."""
    for package, path in sources():
        if "__all__" in path.read_text("utf-8"):
            parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__")


def order(name):
    """Constants, classes, functions, each in alphabetical order, as ruff sorts."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@pytest.mark.parametrize("name", public_modules())
def test_what_a_module_says_it_exports_is_there_and_sorted(name):
    module = importlib.import_module(name)
    assert module.__all__ == sorted(set(module.__all__), key=order)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []


def test_nothing_else_is_imported_from_such_a_module():
    """Files of one folder may share more among themselves."""
    public, taken = set(public_modules()), set()
    for path in [*(path for _, path in sources()), *sorted((ROOT / "benchmarks").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in public:
                taken |= {(node.module, alias.name, path.parent) for alias in node.names}
    assert len(taken) > 100
    hidden = []
    for name, entry, folder in sorted(taken):
        module = importlib.import_module(name)
        beside = Path(module.__file__).parent == folder
        submodule = hasattr(module, "__path__") and importlib.util.find_spec(f"{name}.{entry}")
        if entry not in module.__all__ and not beside and not submodule:
            hidden.append((name, entry))
    assert hidden == []
