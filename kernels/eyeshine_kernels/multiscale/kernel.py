"""``multiscale`` in Triton: three launches for "resolution", two for "literal"; reference.py is the definition.

Importing this file decorates the kernels, which fixes whether they are compiled or interpreted; torch is imported by
launch.py alone, so that hosts without torch can compile ahead of time.

"resolution": (1) centre and resize the queries, (2) spread relevance along their relations, whose matrices never leave
the registers, (3) resize back, z-score, sum over blocks and scales, gate. (1) is not part of (2) because every program
of (2) needs all cells of its image, and all of them the mean query.
"""

from __future__ import annotations

import triton
import triton.language as tl

from eyeshine_kernels.multiscale.options import EQUAL, FLAT, LEAST_NORM, TINY

__all__ = [
    "AOT",
    "CELLS",
    "DEPTH",
    "KEYS",
    "LEAST",
    "WARPS",
    "cells_kernel",
    "gate_kernel",
    "level_kernel",
    "literal_gate_kernel",
    "relations_kernel",
]

# Tile sizes, chosen on paper and not measured on a GPU. 16 is the least that tl.dot takes; cells come 16 at a time
# because at batch 1 there is little to spread over the multiprocessors: 25 programs a block for a 14 x 14 grid.
LEAST, CELLS, KEYS, DEPTH, WARPS = 16, 16, 32, 64, 4

_FLAT, _EQUAL, _LEAST_NORM, _TINY = (tl.constexpr(value) for value in (FLAT, EQUAL, LEAST_NORM, TINY))
# Fields of a scale in the plan: rows, columns, first cell, largest window in rows and in columns.
_PLAN = tl.constexpr(5)


@triton.jit
def _window(cell, size, cells):
    """First position and length of the window that adaptive average pooling takes for a cell."""
    start = cell * size // cells
    return start, ((cell + 1) * size + cells - 1) // cells - start


@triton.jit
def _softplus(theta):
    """log(1 + exp(theta)), to the last digit where exp(theta) is below what changes 1; NaN of NaN."""
    small = tl.exp(-tl.abs(theta))
    shifted = 1.0 + small
    rest = shifted - 1.0
    logarithm = tl.where(rest == 0.0, small, tl.log(shifted) * (small / tl.where(rest == 0.0, 1.0, rest)))
    return tl.where(theta > 0.0, theta, 0.0) + logarithm


@triton.jit
def _weight(layer_weights, block):
    """softplus(theta) of a block, 1 where there is no theta."""
    weight = 1.0
    if layer_weights is not None:
        weight = _softplus(tl.load(layer_weights + block).to(tl.float32))
    return weight


@triton.jit
def cells_kernel(
    queries,  # pointer, (B, K, N, D)
    plan,  # pointer, int32, (scales, 5)
    cells,  # pointer, float32, (B * K, all cells, D): resized, less the mean query, not normalised
    inverses,  # pointer, float32, (B * K, all cells): 1 / norm
    patches,  # N
    channels,  # D
    height,
    width,
    total,  # cells of all scales
    tiles,  # of the scale that has the most
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: BLOCK_M cells of one scale, block and image."""
    # Offsets are computed in 64 bits: B * K * N * D passes 2^31 at batch 3600 for 4 blocks of B/16.
    program = tl.program_id(0).to(tl.int64)
    image_block = program // tiles
    scale = plan + tl.program_id(1) * _PLAN
    rows, columns, first = tl.load(scale), tl.load(scale + 1), tl.load(scale + 2)
    high, wide = tl.load(scale + 3), tl.load(scale + 4)
    start_cell = (program % tiles).to(tl.int32) * BLOCK_M
    if start_cell >= rows * columns:
        return  # a tile that only a larger scale has
    cell = start_cell + tl.arange(0, BLOCK_M)
    has_cell = cell < rows * columns
    top, tall = _window(cell // columns, height, rows)
    left, broad = _window(cell % columns, width, columns)
    source = queries + image_block * patches * channels
    target = cells + (image_block * total + first + cell) * channels
    squares = tl.zeros((BLOCK_M,), dtype=tl.float32)
    mean_squares = 0.0
    for start in range(0, channels, BLOCK_D):
        channel = start + tl.arange(0, BLOCK_D)
        has_channel = channel < channels
        mean = tl.zeros((BLOCK_D,), dtype=tl.float32)
        for other in range(0, patches, BLOCK_N):
            patch = other + tl.arange(0, BLOCK_N)
            mask = (patch < patches)[:, None] & has_channel[None, :]
            address = source + patch.to(tl.int64)[:, None] * channels + channel[None, :]
            mean += tl.sum(tl.load(address, mask=mask, other=0.0).to(tl.float32), axis=0)
        mean = mean / patches
        mean_squares += tl.sum(mean * mean, axis=0)
        centred = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
        for down in range(high):
            for right in range(wide):
                inside = (has_cell & (down < tall) & (right < broad))[:, None] & has_channel[None, :]
                patch = (top + down).to(tl.int64) * width + left + right
                address = source + patch[:, None] * channels + channel[None, :]
                query = tl.load(address, mask=inside, other=0.0).to(tl.float32)
                # Less the mean before the sum: the digits that all queries share are gone before they round.
                centred += tl.where(inside, query - mean[None, :], 0.0)
        centred = centred / (tall * broad).to(tl.float32)[:, None]
        squares += tl.sum(centred * centred, axis=1)
        tl.store(target[:, None] + channel[None, :], centred, mask=has_cell[:, None] & has_channel[None, :])
    norm = tl.sqrt_rn(squares)
    least = _EQUAL * tl.sqrt_rn(mean_squares)
    # Asked this way round a NaN stays: maximum would make a number of it. One in the norm is in the mean query, too.
    least = tl.where(least < _LEAST_NORM, _LEAST_NORM, least)
    norm = tl.where(norm > least, norm, least)
    tl.store(inverses + image_block * total + first + cell, 1.0 / norm, mask=has_cell)


@triton.jit
def relations_kernel(
    cells,  # pointer, float32, (B * K, all cells, D)
    inverses,  # pointer, float32, (B * K, all cells)
    base,  # pointer, (B, P, N)
    plan,  # pointer, int32, (scales, 5)
    spread,  # pointer, float32, (B, P, K, all cells): relations times the resized base map, not yet over its sum
    prompts,  # P
    blocks,  # K
    patches,  # N
    channels,  # D
    height,
    width,
    total,  # cells of all scales
    tiles,  # of the scale that has the most
    prompt_tiles,
    sharpness,  # 1 / (temperature ln 2)
    BLOCK_P: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: BLOCK_M cells of one scale, block and image against all cells, for BLOCK_P prompts."""
    program = tl.program_id(0).to(tl.int64)
    image_block = program // tiles // prompt_tiles
    image = image_block // blocks
    scale = plan + tl.program_id(1) * _PLAN
    rows, columns, first = tl.load(scale), tl.load(scale + 1), tl.load(scale + 2)
    high, wide = tl.load(scale + 3), tl.load(scale + 4)
    start_cell = (program % tiles).to(tl.int32) * BLOCK_M
    if start_cell >= rows * columns:
        return  # a tile that only a larger scale has
    cell = start_cell + tl.arange(0, BLOCK_M)
    prompt = (program // tiles % prompt_tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    has_cell = cell < rows * columns
    has_prompt = prompt < prompts
    maps = base + (image * prompts + prompt) * patches
    row = image_block * total + first + cell
    inverse = tl.load(inverses + row, mask=has_cell, other=0.0)
    weighted = tl.zeros((BLOCK_M, BLOCK_P), dtype=tl.float32)
    weights = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for other in range(0, rows * columns, BLOCK_N):
        key = other + tl.arange(0, BLOCK_N)
        has_key = key < rows * columns
        key_row = image_block * total + first + key
        cosine = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, channels, BLOCK_D):
            channel = start + tl.arange(0, BLOCK_D)
            has_channel = channel < channels
            mask = has_cell[:, None] & has_channel[None, :]
            f = tl.load(cells + row[:, None] * channels + channel[None, :], mask=mask, other=0.0)
            mask = has_key[None, :] & has_channel[:, None]
            g = tl.load(cells + key_row[None, :] * channels + channel[:, None], mask=mask, other=0.0)
            # "ieee": a cosine in tf32 is off by 1e-3, which the temperature makes 1 % of a relation.
            cosine = tl.dot(f, g, cosine, input_precision="ieee")
        cosine = cosine * inverse[:, None] * tl.load(inverses + key_row, mask=has_key, other=0.0)[None, :]
        # 1 is the largest cosine: no running maximum, nothing to rescale.
        relation = tl.where(has_key[None, :], tl.exp2((cosine - 1.0) * sharpness), 0.0)
        weights += tl.sum(relation, axis=1)
        top, tall = _window(key // columns, height, rows)
        left, broad = _window(key % columns, width, columns)
        evidence = tl.zeros((BLOCK_N, BLOCK_P), dtype=tl.float32)
        for down in range(high):
            for right in range(wide):
                inside = (has_key & (down < tall) & (right < broad))[:, None] & has_prompt[None, :]
                patch = (top + down) * width + left + right
                evidence += tl.load(maps[None, :] + patch[:, None], mask=inside, other=0.0).to(tl.float32)
        evidence = evidence / (tall * broad).to(tl.float32)[:, None]
        weighted = tl.dot(relation, evidence, weighted, input_precision="ieee")
    target = spread + ((image * prompts + prompt) * blocks + image_block % blocks) * total + first
    mask = has_cell[:, None] & has_prompt[None, :]
    tl.store(target[None, :] + cell[:, None], weighted / weights[:, None], mask=mask)


@triton.jit
def gate_kernel(
    spread,  # pointer, float32, (B, P, K, all cells)
    base,  # pointer, (B, P, N)
    layer_weights,  # pointer, theta, (K,), or None where all are equal
    plan,  # pointer, int32, (scales, 5)
    maps,  # pointer, float32, (B, P, N)
    semantics,  # pointer, float32, (B, P, N)
    blocks,  # K
    patches,  # N
    height,
    width,
    total,  # cells of all scales
    scales,
    alpha,
    beta,
    context,  # rho * alpha
    BLOCK: tl.constexpr,  # power of two, at least N
):
    """One program: one map (b, p), over all blocks and scales."""
    program = tl.program_id(0).to(tl.int64)
    patch = tl.arange(0, BLOCK)
    mask = patch < patches
    evidence = tl.load(base + program * patches + patch, mask=mask, other=0.0).to(tl.float32)
    share = 1.0 / (tl.sum(tl.abs(evidence), axis=0) + _TINY)
    y = (patch // width).to(tl.float32) + 0.5
    x = (patch % width).to(tl.float32) + 0.5
    weight_sum = 0.0
    for block in range(blocks):
        weight_sum += _weight(layer_weights, block)
    level = tl.zeros((BLOCK,), dtype=tl.float32)
    for block in range(blocks):
        weight = _weight(layer_weights, block)
        for index in range(scales):
            scale = plan + index * _PLAN
            rows, columns, first = tl.load(scale), tl.load(scale + 1), tl.load(scale + 2)
            source = spread + (program * blocks + block) * total + first
            down = y * (rows.to(tl.float32) / height) - 0.5
            right = x * (columns.to(tl.float32) / width) - 0.5
            down = tl.where(down < 0.0, 0.0, down)
            right = tl.where(right < 0.0, 0.0, right)
            top, left = tl.minimum(down.to(tl.int32), rows - 1), tl.minimum(right.to(tl.int32), columns - 1)
            down, right = down - top.to(tl.float32), right - left.to(tl.float32)
            bottom, beside = tl.minimum(top + 1, rows - 1), tl.minimum(left + 1, columns - 1)
            above = tl.load(source + top * columns + left, mask=mask, other=0.0) * (1.0 - right)
            above += tl.load(source + top * columns + beside, mask=mask, other=0.0) * right
            below = tl.load(source + bottom * columns + left, mask=mask, other=0.0) * (1.0 - right)
            below += tl.load(source + bottom * columns + beside, mask=mask, other=0.0) * right
            r = (above * (1.0 - down) + below * down) * share
            mean = tl.sum(tl.where(mask, r, 0.0), axis=0) / patches
            centred = tl.where(mask, r - mean, 0.0)
            deviation = tl.sqrt_rn(tl.sum(centred * centred, axis=0) / patches)
            flat = deviation <= _FLAT * tl.abs(mean)
            score = tl.where(flat, 0.0, centred / tl.where(flat, 1.0, deviation))
            level += score * (weight / ((weight_sum + _TINY) * scales))
    enhanced = evidence * (1.0 + alpha * tl.sigmoid(beta * level))
    low = tl.min(tl.where(mask, level, float("inf")), axis=0)
    high = tl.max(tl.where(mask, level, float("-inf")), axis=0)
    most = tl.max(tl.where(mask, evidence, float("-inf")), axis=0)
    enhanced += context * most * ((level - low) / (high - low + _TINY))
    tl.store(semantics + program * patches + patch, level, mask=mask)
    tl.store(maps + program * patches + patch, enhanced, mask=mask)


@triton.jit
def level_kernel(
    features,  # pointer, (copies, B * K, N, D)
    gain,  # pointer, (D,), or None
    shift,  # pointer, (D,), or None
    levels,  # pointer, float32, (copies, B * K, N)
    patches,  # N
    channels,  # D
    scale,  # 1 / (sqrt(D) N)
    epsilon,  # of LayerNorm
    NORM: tl.constexpr,  # LayerNorm comes first
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,  # power of two, at least D
):
    """One program: mean over keys of cosines over sqrt(D), as the product with the mean key; two passes over N."""
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_D)
    has_channel = channel < channels
    source = features + program * patches * channels
    keys = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for step in range(2 * tl.cdiv(patches, BLOCK_N)):
        patch = (step % tl.cdiv(patches, BLOCK_N)) * BLOCK_N + tl.arange(0, BLOCK_N)
        has_patch = patch < patches
        mask = has_patch[:, None] & has_channel[None, :]
        f = tl.load(source + patch.to(tl.int64)[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        f = f.to(tl.float32)
        if NORM:
            f = tl.where(mask, f - tl.sum(f, axis=1)[:, None] / channels, 0.0)
            f = f / tl.sqrt_rn(tl.sum(f * f, axis=1) / channels + epsilon)[:, None]
            if gain is not None:
                f = f * tl.load(gain + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
            if shift is not None:
                f = f + tl.load(shift + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
            f = tl.where(mask, f, 0.0)
        norm = tl.sqrt_rn(tl.sum(f * f, axis=1))
        f = f / tl.where(norm < _LEAST_NORM, _LEAST_NORM, norm)[:, None]
        if step < tl.cdiv(patches, BLOCK_N):
            keys += tl.sum(f, axis=0)
        else:
            level = tl.sum(f * keys[None, :], axis=1) * scale
            tl.store(levels + program * patches + patch, level, mask=has_patch)


@triton.jit
def literal_gate_kernel(
    levels,  # pointer, float32, (copies, B, K, N)
    base,  # pointer, (B, P, N)
    layer_weights,  # pointer, theta, (K,), or None where ``weight`` holds softplus(1)
    maps,  # pointer, float32, (B, P, N)
    semantics,  # pointer, float32, (B, P, N)
    images,  # B
    prompts,  # P
    blocks,  # K
    patches,  # N
    copies,
    weight,  # scales per copy, over K
    alpha,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK patches of one map (b, p)."""
    tiles = tl.cdiv(patches, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    patch = (program % tiles) * BLOCK + tl.arange(0, BLOCK)
    row = program // tiles
    mask = patch < patches
    level = tl.zeros((BLOCK,), dtype=tl.float32)
    for copy in range(copies):
        for block in range(blocks):
            source = levels + ((copy * images + row // prompts) * blocks + block) * patches
            level += _weight(layer_weights, block) * weight * tl.load(source + patch, mask=mask, other=0.0)
    evidence = tl.load(base + row * patches + patch, mask=mask, other=0.0).to(tl.float32)
    tl.store(semantics + row * patches + patch, level, mask=mask)
    tl.store(maps + row * patches + patch, evidence * (1.0 + alpha * tl.sigmoid(level)), mask=mask)


def _variant(
    kernel: object, pointers: dict[str, str], scalars: str, floats: str, **constants: object
) -> dict[str, object]:
    """Signature (argument name to type) and constants of one ahead-of-time compilation."""
    signature = {name: f"*{element}" for name, element in pointers.items()}
    signature |= dict.fromkeys(scalars.split(), "i32") | dict.fromkeys(floats.split(), "fp32")
    return {"kernel": kernel, "signature": signature, "constants": constants, "num_warps": WARPS}


_MAPS = {"maps": "fp32", "semantics": "fp32"}
_SIZES = {"BLOCK_M": CELLS, "BLOCK_N": KEYS, "BLOCK_D": DEPTH}

# What is compiled ahead of time, by name: queries of each dtype, a base map of float32, as ``relevance`` writes it.
AOT = {
    **{
        f"multiscale_cells_{element}": _variant(
            cells_kernel,
            {"queries": element, "plan": "i32", "cells": "fp32", "inverses": "fp32"},
            "patches channels height width total tiles",
            "",
            **_SIZES,
        )
        for element in ("fp32", "fp16", "bf16")
    },
    "multiscale_relations": _variant(
        relations_kernel,
        {"cells": "fp32", "inverses": "fp32", "base": "fp32", "plan": "i32", "spread": "fp32"},
        "prompts blocks patches channels height width total tiles prompt_tiles",
        "sharpness",
        BLOCK_P=LEAST,
        **_SIZES,
    ),
    "multiscale_gate": _variant(
        gate_kernel,
        {"spread": "fp32", "base": "fp32", "layer_weights": "fp32", "plan": "i32", **_MAPS},
        "blocks patches height width total scales",
        "alpha beta context",
        BLOCK=1024,
    ),
    "multiscale_level": _variant(
        level_kernel,
        {"features": "fp32", "gain": "fp32", "shift": "fp32", "levels": "fp32"},
        "patches channels",
        "scale epsilon",
        NORM=True,
        BLOCK_N=8,
        BLOCK_D=1024,
    ),
    "multiscale_literal_gate": _variant(
        literal_gate_kernel,
        {"levels": "fp32", "base": "fp32", **_MAPS},
        "images prompts blocks patches copies",
        "weight alpha",
        layer_weights=None,
        BLOCK=256,
    ),
}
