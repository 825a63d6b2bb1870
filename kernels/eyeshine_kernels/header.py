"""The C header of a build: arguments as structures, grids as functions, one table of cubins."""

from __future__ import annotations

from typing import Any

from eyeshine_kernels.aot import HIDDEN

__all__ = ["header"]

_TOP = """\
/* Kernels of eyeshine, compiled ahead of time by triton {triton}. Made by `eyeshine kernels build`; do not edit.
 *
 * To launch one through the CUDA driver, by its name and the device's compute capability (sm 87 is 8.7):
 *
 *   const eyeshine_kernel *entry = ...;                       look it up in eyeshine_kernels[]
 *   cuModuleLoadData(&module, bytes of the file entry->cubin);
 *   cuModuleGetFunction(&function, module, entry->symbol);
 *   eyeshine_NAME_args args = {{...}};                          every field; pointers are CUdeviceptr
 *   eyeshine_grid grid = eyeshine_NAME_grid(...);
 *   size_t size = sizeof args;
 *   void *config[] = {{CU_LAUNCH_PARAM_BUFFER_POINTER, &args, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
 *                     CU_LAUNCH_PARAM_END}};
 *   cuLaunchKernel(function, grid.x, grid.y, 1, entry->threads, 1, 1, entry->shared_bytes, stream, NULL, config);
 *
 * - A structure has the layout of the kernel's parameters: the arguments that are no constants, in order, then the two
 *   pointers that triton adds to every kernel, {hidden}. No kernel here uses them: leave them 0.
 * - A cubin is for its own architecture. Sizes in capitals were fixed when it was compiled.
 * - shared_bytes is dynamic shared memory; above 49152 set CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first.
 * - A pointer needs the alignment of its element. Arrays are contiguous where no strides are passed.
 * - A grid of no programs must not be launched: there is nothing to compute. grid.x ends at 2^31 - 1.
 */
#ifndef EYESHINE_KERNELS_H
#define EYESHINE_KERNELS_H

#include <stdint.h>

typedef struct {{
    uint32_t x, y;
}} eyeshine_grid;

static inline int64_t eyeshine_divide_up(int64_t size, int64_t divisor) {{ return (size + divisor - 1) / divisor; }}
"""

_TABLE = """
typedef struct {
    int sm;                /* compute capability, ten times over */
    const char *name;      /* of the kernel and its variant */
    const char *cubin;     /* file, beside this header */
    const char *symbol;    /* for cuModuleGetFunction */
    uint32_t threads;      /* of a block, along x */
    uint32_t shared_bytes; /* dynamic */
    uint32_t args_bytes;   /* of the structure of arguments */
} eyeshine_kernel;
"""


def header(facts: dict[str, Any]) -> str:
    """Text of ``eyeshine_kernels.h``, C11 and C++11, for the facts that ``build`` found."""
    kernels = facts["kernels"]
    parts = [_TOP.format(triton=facts["triton"], hidden=" and ".join(HIDDEN))]
    parts += [_kernel(name, kernel) for name, kernel in kernels.items()]
    rows = [_row(sm, name, kernel) for name, kernel in kernels.items() for sm in kernel["cubins"]]
    parts += [_TABLE, f"#define EYESHINE_KERNELS {len(rows)}\n"]
    parts += ["static const eyeshine_kernel eyeshine_kernels[EYESHINE_KERNELS] = {", *rows, "};\n"]
    return "\n".join([*parts, "#endif\n"])


def _kernel(name: str, kernel: dict[str, Any]) -> str:
    lines = [f"/* {name}: {_safe(kernel['purpose'])}"]
    absent = [constant for constant, value in kernel["constants"].items() if value is None]
    if absent:
        lines.append(f" * Without {', '.join(absent)}.")
    lines[-1] += " */"
    for constant, value in kernel["constants"].items():
        if value is not None:
            note = kernel["constant_notes"].get(constant)
            comment = f" /* {_safe(note)} */" if note else ""
            lines.append(f"#define EYESHINE_{name.upper()}_{constant} {_literal(value)}{comment}")
    lines.append("typedef struct {")
    for argument in kernel["arguments"]:
        kind = f"device pointer to {argument['type']}" if argument["pointer"] else ""
        note = ": ".join(filter(None, (kind, _safe(argument["note"]))))
        lines.append(f"    {argument['c']} {argument['name']};" + (f" /* {note} */" if note else ""))
    lines += [f"    uint64_t {hidden}; /* 0 */" for hidden in HIDDEN]
    lines += [f"}} eyeshine_{name}_args;", *_grid(name, kernel), ""]
    return "\n".join(lines)


def _grid(name: str, kernel: dict[str, Any]) -> list[str]:
    """A function of the sizes that are no constants."""
    flat = [part for axis in kernel["grid"] for factor in axis for part in _parts(factor)]
    sizes = [part for part in dict.fromkeys(flat) if part not in kernel["constants"]]

    def factor_text(factor: str | list[str]) -> str:
        size, *divisor = _parts(factor)
        if not divisor:
            return size
        constant = divisor[0] in kernel["constants"]
        return f"eyeshine_divide_up({size}, {f'EYESHINE_{name.upper()}_' if constant else ''}{divisor[0]})"

    axes = [" * ".join(map(factor_text, axis)) for axis in kernel["grid"]]
    lines = [f"static inline eyeshine_grid eyeshine_{name}_grid({', '.join(f'int64_t {size}' for size in sizes)}) {{"]
    lines.append("    eyeshine_grid grid = {1, 1};")
    lines += [f"    grid.{letter} = (uint32_t)({axis});" for letter, axis in zip("xy", axes, strict=False)]
    return [*lines, "    return grid;", "}"]


def _parts(factor: str | list[str]) -> list[str]:
    return [factor] if isinstance(factor, str) else factor


def _row(sm: str, name: str, kernel: dict[str, Any]) -> str:
    cubin = kernel["cubins"][sm]
    return (
        f'    {{{sm}, "{name}", "{cubin["file"]}", "{kernel["symbol"]}", {kernel["threads"]}, '
        f"{cubin['shared_bytes']}, sizeof(eyeshine_{name}_args)}},"
    )


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(int(value))  # type: ignore[call-overload]


def _safe(note: str) -> str:
    """No comment of C ends or starts within another."""
    return note.replace("*/", "* /").replace("/*", "/ *")
