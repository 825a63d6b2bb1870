"""Ahead of time: which kernels there are, how each is compiled without a GPU, and what a host must know to launch it.

``python -m eyeshine_kernels.aot 87 FOLDER MODULE...`` compiles them for compute capability 8.7; ``build.py`` calls it
so, in a process of its own. torch is not needed, triton is imported by what compiles alone.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from eyeshine_kernels.backend import KernelError

__all__ = ["ARCHITECTURES", "ELEMENTS", "GRIDS", "HIDDEN", "MODULES", "Axis", "compiled", "variants", "write_cubins"]

ARCHITECTURES: Final = (75, 80, 86, 87, 89, 90, 100, 120)
"""Compute capabilities, ten times over; triton ends the process on one that it does not know."""

MODULES: Final = (
    "eyeshine_kernels.relevance.kernel",
    "eyeshine_kernels.multiscale.kernel",
    "eyeshine_kernels.normalize.kernel",
    "eyeshine_kernels.head_scores.kernel",
    "eyeshine_kernels.upsample.kernel",
    "eyeshine_kernels.overlay.kernel",
)
"""One line per kernel module. Its AOT names what is compiled: {variant: {"kernel": the jitted function, "signature":
{argument: type}, "constants": {argument: value}, "num_warps": int}}."""

Axis: TypeAlias = "tuple[str | tuple[str, str], ...]"
"""Factors of the number of programs: a size, or (size, divisor), which is divided and rounded up."""

GRIDS: Final[dict[str, tuple[Axis, ...]]] = {
    "relevance_kernel": (("images", "blocks", ("prompts", "BLOCK_P"), ("patches", "BLOCK_N")),),
    "normalize_kernel": (("images", "prompts"),),
    "contributions_kernel": (("images", "candidate_blocks", "heads", ("width", "BLOCK_E")),),
    "choose_kernel": (("images", "prompts"),),
    "cells_kernel": (("images", "blocks", "tiles"), ("scales",)),
    "relations_kernel": (("images", "blocks", "tiles", "prompt_tiles"), ("scales",)),
    "gate_kernel": (("images", "prompts"),),
    "level_kernel": (("copies", "images", "blocks"),),
    "literal_gate_kernel": (("images", "prompts", ("patches", "BLOCK")),),
    "upsample_kernel": (("images", "prompts", ("height", "BLOCK_Y"), ("width", "BLOCK_X")),),
    "overlay_kernel": (("images", ("prompts", "share"), ("height", "BLOCK_Y"), ("width", "BLOCK_X")),),
}
"""Programs of a launch along x and y, by symbol: sizes are named as the arguments are, or as in the shapes."""

HIDDEN: Final = ("global_scratch", "profile_scratch")
"""Pointers that triton 3.9 adds behind the arguments of every kernel; no kernel of ours uses either, so both are 0."""

ELEMENTS: Final = {
    "fp32": ("float32", "float"),
    "fp16": ("float16", None),
    "bf16": ("bfloat16", None),
    "u8": ("uint8", None),
    "i32": ("int32", "int32_t"),
    "i64": ("int64", "int64_t"),
}
"""Triton's names of types: ours, and C's where an argument can be one that is not behind a pointer."""


def variants(modules: Iterable[str] = MODULES) -> dict[str, dict[str, Any]]:
    """Everything that is compiled ahead of time, by name.

    Raises:
        KernelError: two variants of one name, or a kernel without a grid.
    """
    found: dict[str, dict[str, Any]] = {}
    for module in modules:
        for name, variant in importlib.import_module(module).AOT.items():
            if name in found:
                raise KernelError(f"two variants of one name: got {name!r} again in {module}, allowed one; rename it")
            if variant["kernel"].__name__ not in GRIDS:
                raise KernelError(f"kernel without a grid: got {variant['kernel'].__name__}; add it to aot.GRIDS")
            found[name] = variant
    return found


def compiled(variant: dict[str, Any], sm: int) -> Any:
    """Triton's result for one variant and architecture: ``asm`` and ``metadata``.

    Raises:
        KernelError: an argument without a type or value, or one that the kernel does not have.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel, constants = variant["kernel"], variant["constants"]
    types = {**dict.fromkeys(constants, "constexpr"), **variant["signature"]}
    if set(types) != set(kernel.arg_names):
        raise KernelError(f"{kernel.__name__}: got arguments {sorted(types)}, allowed {sorted(kernel.arg_names)}")
    source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constexprs=constants)
    options = {"num_warps": variant["num_warps"], "enable_fp_fusion": True}
    return compile(source, target=GPUTarget("cuda", sm, 32), options=options)


def write_cubins(sm: int, folder: Path, modules: Iterable[str] = MODULES) -> dict[str, dict[str, Any]]:
    """Compile every variant into ``folder``, NAME.cubin, and return what a host must know of each, for JSON.

    Raises:
        KernelError: a kernel that needs scratch memory, which a plain launch does not give it.
    """
    facts = {}
    for name, variant in sorted(variants(modules).items()):
        done = compiled(variant, sm)
        metadata, cubin = done.metadata, done.asm["cubin"]
        if metadata.global_scratch_size or metadata.profile_scratch_size or metadata.num_ctas != 1:
            raise KernelError(f"{name}: got scratch memory or a cluster of blocks, allowed neither in a plain launch")
        (folder / f"{name}.cubin").write_bytes(cubin)
        facts[name] = {
            **_described(variant),
            "symbol": metadata.name,
            "threads": 32 * metadata.num_warps,
            "shared_bytes": metadata.shared,
            "cubin_bytes": len(cubin),
            "sha256": hashlib.sha256(cubin).hexdigest(),
        }
    return facts


def _described(variant: dict[str, Any]) -> dict[str, Any]:
    """Purpose, arguments in order, constants and grid of a variant, from its signature and the kernel's own text."""
    kernel, signature = variant["kernel"], variant["signature"]
    notes = _notes(kernel.fn)
    arguments = []
    for name in (name for name in kernel.arg_names if name in signature):
        pointer, element = signature[name].startswith("*"), signature[name].lstrip("*")
        ours, c = ELEMENTS[element]
        arguments.append(
            {"name": name, "pointer": pointer, "type": ours, "c": "uint64_t" if pointer else c, "note": notes[name]}
        )
    return {
        "purpose": inspect.getdoc(kernel.fn).partition("\n")[0],  # type: ignore[union-attr]
        "arguments": arguments,
        "constants": variant["constants"],
        "constant_notes": {name: notes[name] for name in variant["constants"] if notes[name]},
        "grid": GRIDS[kernel.__name__],
    }


def _notes(function: Callable[..., None]) -> dict[str, str]:
    """What the kernel says of its arguments, behind each."""
    text = inspect.getsource(function).partition("\n):")[0]
    return dict(re.findall(r"^    (\w+)(?:: tl\.constexpr)?,(?: *# (?:pointer, )?(.*))?$", text, re.MULTILINE))


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    print(json.dumps(write_cubins(int(sys.argv[1]), target, sys.argv[3:])))
