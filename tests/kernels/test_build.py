"""Cubins, header and facts: against the compiled code itself, a C compiler, and the launches that Python makes."""

import hashlib
import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eyeshine.cli import main
from eyeshine_kernels import build as builder
from eyeshine_kernels.aot import GRIDS, HIDDEN, MODULES, variants
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.build import build

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"
SM = 87

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("g++") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder and facts of one whole build."""
    folder = tmp_path_factory.mktemp("build") / "made" / "here"
    return folder, build(folder, [SM])


def run_c(folder, include, body):
    """Lines that a C program prints, compiled without a warning as C11; the header alone also as C++11."""
    source = folder / "program.c"
    source.write_text(
        f'#include "eyeshine_kernels.h"\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{body}\n}}\n'
    )
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", str(include)]
    subprocess.run(["gcc", "-std=c11", *strict, source, "-o", folder / "program"], check=True)
    subprocess.run(["g++", "-std=c++11", "-x", "c++", *strict, "-fsyntax-only", source], check=True)
    return subprocess.run([folder / "program"], check=True, capture_output=True, text=True).stdout.splitlines()


def parameters(cubin, symbol):
    """Offset and size of each parameter, and threads of a block: what ptxas wrote into the section .nv.info.SYMBOL."""
    table, size, count, names = struct.unpack_from("<Q", cubin, 0x28) + struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + size * number) for number in range(count)]
    strings = headers[names][4]
    found = {
        cubin[strings + h[0] : cubin.index(b"\0", strings + h[0])].decode(): cubin[h[4] : h[4] + h[5]] for h in headers
    }
    info, place, fields, threads = found[f".nv.info.{symbol}"], 0, {}, None
    while place < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, place)
        place += 4
        if form == 4:  # the value is the size of what follows
            data, place = info[place : place + value], place + value
            if attribute == 0x17:  # KPARAM_INFO
                _, ordinal, offset, flags = struct.unpack("<IHHI", data)
                fields[ordinal] = (offset, flags >> 18)
            elif attribute == 0x10:  # REQNTID
                threads = struct.unpack("<III", data)
    return [fields[ordinal] for ordinal in sorted(fields)], threads


def evaluate(axes, sizes):
    """Programs along x and y."""
    counts = [1, 1]
    for number, axis in enumerate(axes):
        for factor in axis:
            size, divisor = (factor, None) if isinstance(factor, str) else factor
            counts[number] *= sizes[size] if divisor is None else math.ceil(sizes[size] / sizes[divisor])
    return tuple(counts)


# What is written


def test_every_variant_is_a_cubin_for_the_architecture(built):
    folder, facts = built
    assert json.loads((folder / "kernels.json").read_text("utf-8")) == json.loads(json.dumps(facts))
    assert list(facts["kernels"]) == sorted(variants())
    assert sorted(path.name for path in folder.iterdir()) == ["eyeshine_kernels.h", "kernels.json", f"sm_{SM}"]
    assert len(list((folder / f"sm_{SM}").iterdir())) == len(variants())
    for name, kernel in facts["kernels"].items():
        found = kernel["cubins"][str(SM)]
        cubin = (folder / found["file"]).read_bytes()
        assert found["file"] == f"sm_{SM}/{name}.cubin"
        assert (found["cubin_bytes"], found["sha256"]) == (len(cubin), hashlib.sha256(cubin).hexdigest())
        assert cubin[:4] == b"\x7fELF"
        assert kernel["symbol"].encode() in cubin
        assert str(KERNELS).encode() not in cubin


def test_arguments_say_what_they_are(built):
    _, facts = built
    arguments = {argument["name"]: argument for argument in facts["kernels"]["overlay_fp16"]["arguments"]}
    assert arguments["photos"] == {
        "name": "photos",
        "pointer": True,
        "type": "uint8",
        "c": "uint64_t",
        "note": "(B, H, W, 3), uint8",
    }
    assert arguments["maps"]["type"] == "float16"
    assert arguments["mute"] == {
        "name": "mute",
        "pointer": False,
        "type": "int32",
        "c": "int32_t",
        "note": "in 1/65536",
    }
    assert "attention" not in [argument["name"] for argument in facts["kernels"]["relevance_plain_fp32"]["arguments"]]
    pointers = [a for kernel in facts["kernels"].values() for a in kernel["arguments"] if a["pointer"]]
    assert all(argument["note"] for argument in pointers)


@needs_gcc
def test_structures_have_the_layout_of_the_compiled_parameters(built, tmp_path):
    """The host's compiler on one side, the parameter table that ptxas wrote on the other."""
    folder, facts = built
    lines = []
    for name, kernel in facts["kernels"].items():
        for field in [*(argument["name"] for argument in kernel["arguments"]), *HIDDEN]:
            kind = f"eyeshine_{name}_args"
            lines.append(f'printf("{name} %zu %zu\\n", offsetof({kind}, {field}), sizeof((({kind} *)0)->{field}));')
    layouts = {}
    for line in run_c(tmp_path, folder, "\n".join(lines)):
        name, offset, size = line.split()
        layouts.setdefault(name, []).append((int(offset), int(size)))
    assert layouts.keys() == facts["kernels"].keys()
    for name, kernel in facts["kernels"].items():
        expected, threads = parameters((folder / f"sm_{SM}/{name}.cubin").read_bytes(), kernel["symbol"])
        assert layouts[name] == expected, name
        assert threads == (kernel["threads"], 1, 1), name


@needs_gcc
def test_the_table_of_the_header_is_the_facts(built, tmp_path):
    folder, facts = built
    body = """for (int i = 0; i < EYESHINE_KERNELS; ++i) {
        const eyeshine_kernel *k = &eyeshine_kernels[i];
        printf("%d %s %s %s ", k->sm, k->name, k->cubin, k->symbol);
        printf("%u %u %u\\n", k->threads, k->shared_bytes, k->args_bytes);
    }"""
    rows = [line.split() for line in run_c(tmp_path, folder, body)]
    assert len(rows) == len(facts["kernels"])
    for (sm, name, cubin, symbol, threads, shared, size), (expected, kernel) in zip(
        rows, facts["kernels"].items(), strict=True
    ):
        found = kernel["cubins"][sm]
        assert (name, cubin, symbol) == (expected, found["file"], kernel["symbol"])
        assert (int(threads), int(shared)) == (kernel["threads"], found["shared_bytes"])
        offset, width = parameters((folder / cubin).read_bytes(), symbol)[0][-1]
        assert int(size) == offset + width


@needs_gcc
def test_grids_of_the_header_are_those_of_the_facts(built, tmp_path):
    folder, facts = built
    lines, expected = [], []
    for name, kernel in facts["kernels"].items():
        flat = [
            part
            for axis in kernel["grid"]
            for factor in axis
            for part in ([factor] if isinstance(factor, str) else factor)
        ]
        names = [part for part in dict.fromkeys(flat) if part not in kernel["constants"]]
        for seed in (1, 7, 131):
            sizes = {size: seed + 3 * place for place, size in enumerate(names)}
            call = ", ".join(map(str, sizes.values()))
            lines.append(f'{{ eyeshine_grid g = eyeshine_{name}_grid({call}); printf("%u %u\\n", g.x, g.y); }}')
            expected.append(evaluate(kernel["grid"], sizes | kernel["constants"]))
    printed = [tuple(map(int, line.split())) for line in run_c(tmp_path, folder, "\n".join(lines))]
    assert printed == [(x % 2**32, y) for x, y in expected]


@needs_gcc
def test_the_example_of_the_documentation_compiles(built, tmp_path):
    """With the driver's header that comes with triton."""
    folder, _ = built
    example = (ROOT / "docs/kernels.md").read_text("utf-8").partition("```c\n")[2].partition("```")[0]
    (tmp_path / "example.c").write_text(example)
    spec = importlib.util.find_spec("triton.backends.nvidia")
    include = Path(spec.origin).parent / "include"
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I", folder, "-isystem", include]
    subprocess.run(["gcc", *strict, "-c", tmp_path / "example.c", "-o", tmp_path / "example.o"], check=True)
    assert b"cuLaunchKernel" in (tmp_path / "example.o").read_bytes()


# The grids are those that Python launches


class Recorder:
    """Stands for a kernel: keeps the grid and the arguments of each launch, and computes nothing."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        def launch(*arguments, **named):
            bound = dict(zip(self.kernel.arg_names, arguments, strict=False)) | named
            self.launches.append((self.kernel.__name__, (*grid, 1)[:2], bound))

        return launch


IMAGES, PROMPTS, BLOCKS = 3, 5, 2


def launch_all():
    """Each public function once, in sizes that no tile divides."""
    from eyeshine_kernels.head_scores import HeadScoreOptions, head_scores
    from eyeshine_kernels.multiscale import MultiscaleOptions, multiscale
    from eyeshine_kernels.normalize import normalize
    from eyeshine_kernels.overlay import overlay
    from eyeshine_kernels.relevance import relevance
    from eyeshine_kernels.upsample import upsample

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def random(*shape):
        return torch.rand(shape, device=device)

    def table(*shape):
        return torch.zeros(shape, dtype=torch.uint8, device=device)

    relevance(random(IMAGES, PROMPTS, BLOCKS, 24), random(IMAGES, BLOCKS, 50, 24), heads=2, backend="triton")
    normalize(random(IMAGES, PROMPTS, 49), backend="triton")
    attention, values = random(IMAGES, BLOCKS, 4, 50), random(IMAGES, BLOCKS, 50, 24)
    options = HeadScoreOptions(blocks=2, top=3)
    head_scores(attention, values, random(BLOCKS, 24, 300), random(PROMPTS, 300), options=options, backend="triton")
    for form in ("resolution", "literal"):
        queries, base = random(IMAGES, BLOCKS, 49, 24), random(IMAGES, PROMPTS, 49)
        multiscale(queries, base, grid=(7, 7), options=MultiscaleOptions(form=form), backend="triton")
    maps = random(IMAGES, PROMPTS, 7, 7)
    upsample(maps, (37, 301), backend="triton")
    overlay(table(IMAGES, 37, 301, 3), maps, table(256, 3), table(256), backend="triton")
    overlay(table(IMAGES, 1080, 1920, 3), maps, table(256, 3), table(256), backend="triton")


def test_grids_are_those_that_python_launches(monkeypatch):
    launches = []
    names = [name.removesuffix("kernel") + part for name in MODULES for part in ("kernel", "launch")]
    # All are imported before the first is changed, or one would take a recorder for the kernel of another.
    for module in [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]:
        for symbol in GRIDS.keys() & vars(module).keys():
            monkeypatch.setattr(module, symbol, Recorder(getattr(module, symbol), launches))
    launch_all()
    assert {symbol for symbol, _, _ in launches} == set(GRIDS)
    # What is no argument of a kernel is a size of the shapes; none is the name of an array.
    given = {"images": IMAGES, "prompts": PROMPTS, "blocks": BLOCKS, "scales": 3, "copies": 1}
    for symbol, grid, bound in launches:
        assert evaluate(GRIDS[symbol], given | bound) == grid, symbol
    assert any(bound["share"] > 1 for symbol, _, bound in launches if symbol == "overlay_kernel")


# The same again, and without torch


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_build_without_torch_gives_the_same_bytes(tmp_path):
    """In another process, from a copy of the sources elsewhere; its torch cannot be imported."""
    build(tmp_path / "one", [SM], ["upsample"])
    copy = tmp_path / "elsewhere"
    shutil.copytree(KERNELS / "eyeshine_kernels", copy / "eyeshine_kernels")
    (copy / "torch.py").write_text("raise ImportError('torch is not installed')\n")
    program = "import sys; from pathlib import Path; from eyeshine_kernels.build import build\n"
    program += "build(Path(sys.argv[1]), [87, 87], ['upsample'])\n"
    environment = os.environ | {"PYTHONPATH": str(copy)}
    subprocess.run([sys.executable, "-c", program, tmp_path / "two"], env=environment, check=True, cwd=tmp_path)
    first = contents(tmp_path / "one")
    assert len(first) == 2 + 3
    assert contents(tmp_path / "two") == first


def test_an_earlier_build_is_replaced_and_nothing_else(tmp_path):
    (tmp_path / "sm_80").mkdir()
    for name in ("kernels.json", "eyeshine_kernels.h", "sm_80/overlay_fp32.cubin", "notes.txt"):
        (tmp_path / name).write_text("earlier")
    build(tmp_path, [SM], ["upsample"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "eyeshine_kernels.h",
        "kernels.json",
        "notes.txt",
        "sm_87",
    ]
    assert "earlier" not in (tmp_path / "kernels.json").read_text() + (tmp_path / "eyeshine_kernels.h").read_text()
    (tmp_path / "kernels.json").unlink()  # so this folder may be someone else's
    with pytest.raises(FileExistsError):
        build(tmp_path, [SM], ["upsample"])


# What is refused, and what fails


@pytest.mark.parametrize(
    ("architectures", "kernels", "said"),
    [
        ([101], None, "unknown architecture: got sm 101, allowed 75, 80, 86, 87, 89, 90, 100, 120"),
        ([87, -1], None, "unknown architecture: got sm -1"),
        ([], None, "no architecture to build for: got none, allowed 75"),
        ([87], ["overlays"], "unknown kernel: got 'overlays', allowed relevance"),
    ],
)
def test_what_is_not_known_is_refused_before_triton_is_asked(architectures, kernels, said, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "_compile", lambda *_: pytest.fail("triton was asked"))
    with pytest.raises(KernelError) as error:
        build(tmp_path / "out", architectures, kernels)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_without_triton_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(builder.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(KernelError, match=r"triton, which is not installed: pip install 'triton>=3.9'"):
        build(tmp_path / "out", [SM])
    assert not (tmp_path / "out").exists()


def test_a_kernel_that_does_not_compile_leaves_nothing_behind(tmp_path, monkeypatch):
    """Triton ends its process on this architecture."""
    monkeypatch.setattr(builder, "ARCHITECTURES", (*builder.ARCHITECTURES, 101))
    with pytest.raises(KernelError, match="kernels do not compile for sm 101, triton says: "):
        build(tmp_path / "out", [101], ["upsample"])
    assert not (tmp_path / "out").exists()


# The command


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["kernels", "build", *map(str, arguments)])
    return int(end.value.code or 0)


def test_the_command_builds_and_says_what(tmp_path, capsys):
    assert command("--sm", 80, "--sm", SM, "--kernel", "upsample", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    size = sum(len(content) for path, content in contents(tmp_path).items() if path.suffix == ".cubin")
    assert said.startswith(f"6 cubins, {size:,} bytes, and {tmp_path / 'eyeshine_kernels.h'}: triton ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sm", 101), "error: unknown architecture: got sm 101"),
        (("--sm", 87, "--kernel", "blur"), "error: unknown kernel: got 'blur', allowed relevance, multiscale"),
        ((), "--sm"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, said, tmp_path, capsys):
    assert command(*arguments, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_triton_exits_with_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(builder.importlib.util, "find_spec", lambda _: None)
    assert command("--sm", SM, "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("error: kernels are compiled by triton, which is not installed")
