"""``head_scores`` in Triton, two launches; ``reference.py`` is the definition.

The first writes what each head contributes, the second scores and chooses, one program per image and prompt. torch is
imported by the launch alone, so that hosts without it can compile ahead of time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from eyeshine_kernels.backend import KernelError, next_power_of_2
from eyeshine_kernels.head_scores.options import FLAT, HeadScoreOptions, HeadScores

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AOT", "MAX_CANDIDATES", "choose_kernel", "contributions_kernel", "launch"]

# One program holds a tile of all candidates: 256 of them leave 32 channels of the joint space, more would leave less
# than a line of cache. Four blocks have 48 (B/16) or 64 (L/14) heads.
MAX_CANDIDATES = 256

# Tile sizes, chosen on paper and not measured on a GPU. A tile of values or of the projection is 32 or 64 numbers per
# thread. The joint space is cut so that at batch 1 the 12 heads of a block make 48 programs, four of each head; they
# mix the same values, which the second to fourth find in the cache.
_TOKENS, _DEPTH, _WIDTH = 64, 64, 128
_CANDIDATE_TILE = 4096
_WARPS, _CHOOSE_WARPS = 4, 8


@triton.jit
def contributions_kernel(
    attention,  # pointer, A, (B, K, H, T)
    values,  # pointer, V, (B, K, T, H * depth)
    projection,  # pointer, M, (K, H * depth, E)
    scale,  # pointer, (B,), or None
    offset,  # pointer, (B, K, E), or None
    contributions,  # pointer, (B, candidate_blocks, H, E), float32
    blocks,  # K
    candidate_blocks,  # K', the last of the K
    heads,  # H
    tokens,  # T
    depth,  # channels of a head
    width,  # E
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One program: BLOCK_E channels of the joint space of one head of one image. All contiguous."""
    width_tiles = tl.cdiv(width, BLOCK_E)
    # Offsets are computed in 64 bits: B * K * T * D passes 2^31 at batch 1200 for 12 blocks of B/16.
    program = tl.program_id(0).to(tl.int64)
    candidate = program // width_tiles
    head = candidate % heads
    image = candidate // heads // candidate_blocks
    block = (candidate // heads) % candidate_blocks + blocks - candidate_blocks
    image_block = image * blocks + block

    token = tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_D)
    joint = (program % width_tiles) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_joint = joint < width
    attention_row = attention + (image_block * heads + head) * tokens
    value_rows = values + image_block * tokens * heads * depth + head * depth
    projection_rows = projection + (block * heads + head) * depth * width

    total = tl.zeros((BLOCK_E,), dtype=tl.float32)
    for first in range(0, depth, BLOCK_D):
        has_channel = first + channel < depth
        partial = tl.zeros((BLOCK_T, BLOCK_D), dtype=tl.float32)
        for start in range(0, tokens, BLOCK_T):
            here = start + token
            has_token = here < tokens
            a = tl.load(attention_row + here, mask=has_token, other=0.0).to(tl.float32)
            rows = value_rows + here.to(tl.int64) * heads * depth
            mask = has_token[:, None] & has_channel[None, :]
            v = tl.load(rows[:, None] + (first + channel)[None, :], mask=mask, other=0.0).to(tl.float32)
            partial += a[:, None] * v
        mixed = tl.sum(partial, axis=0)
        rows = projection_rows + (first + channel).to(tl.int64) * width
        mask = has_channel[:, None] & has_joint[None, :]
        m = tl.load(rows[:, None] + joint[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(mixed[:, None] * m, axis=0)
    if scale is not None:
        total *= tl.load(scale + image).to(tl.float32)
    if offset is not None:
        total += tl.load(offset + image_block * width + joint, mask=has_joint, other=0.0).to(tl.float32)
    tl.store(contributions + candidate * width + joint, total, mask=has_joint)


@triton.jit
def choose_kernel(
    contributions,  # pointer, (B, C, E), float32
    text,  # pointer, t^, (P, E)
    indices,  # pointer, (B, P, count), int64
    scores,  # pointer, (B, P, count), float32
    relevance,  # pointer, (B, P, C), float32
    standardised,  # pointer, (B, P, C), float32
    weights,  # pointer, (B, P, C), float32
    prompts,  # P
    candidates,  # C
    width,  # E
    count,  # k
    alpha,
    beta,
    flat,  # deviation below which relevances are equal, as a share of the largest
    GREEDY: tl.constexpr,  # choose count heads; else all are taken, in order
    PREVIOUS: tl.constexpr,  # the penalty is the cosine with the last chosen head, else the largest with any chosen
    BLOCK_C: tl.constexpr,  # power of two, at least C
    BLOCK_E: tl.constexpr,
):
    """One program: one prompt of one image, over all candidates. All contiguous."""
    program = tl.program_id(0).to(tl.int64)
    candidate = tl.arange(0, BLOCK_C)
    joint = tl.arange(0, BLOCK_E)
    exists = candidate < candidates
    base = contributions + program // prompts * candidates * width
    rows = base + candidate.to(tl.int64) * width
    text_row = text + program % prompts * width

    found = tl.zeros((BLOCK_C,), dtype=tl.float32)
    squares = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for start in range(0, width, BLOCK_E):
        has_joint = start + joint < width
        mask = exists[:, None] & has_joint[None, :]
        c = tl.load(rows[:, None] + (start + joint)[None, :], mask=mask, other=0.0)
        t = tl.load(text_row + start + joint, mask=has_joint, other=0.0).to(tl.float32)
        found += tl.sum(c * t[None, :], axis=1)
        squares += tl.sum(c * c, axis=1)
    norms = tl.sqrt(squares)

    centred = tl.where(exists, found - tl.sum(found, axis=0) / candidates, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / candidates)
    # Asked this way round a NaN stays: the deviation of a row that holds one is a NaN, and so is all of the row.
    largest = tl.max(tl.where(found == found, tl.abs(found), 0.0), axis=0)
    equal = deviation <= flat * largest
    z = tl.where(equal, 0.0, centred / tl.where(equal, 1.0, deviation))
    out = program * candidates + candidate
    tl.store(relevance + out, found, mask=exists)
    tl.store(standardised + out, z, mask=exists)
    # A maximum of truth values: that of numbers passes over a NaN.
    broken = tl.max((exists & (z != z)).to(tl.int32), axis=0)

    if GREEDY:
        free = exists
        penalty = tl.zeros((BLOCK_C,), dtype=tl.float32)
        for step in range(count):
            score = alpha * z - beta * penalty
            broken = broken | tl.max((exists & (score != score)).to(tl.int32), axis=0)
            best_score = tl.max(tl.where(free, score, float("-inf")), axis=0)
            best = tl.min(tl.where(free & (score == best_score), candidate, BLOCK_C), axis=0)
            best = tl.where(broken > 0, 0, best)
            free = free & (candidate != best)
            tl.store(indices + program * count + step, tl.where(broken > 0, -1, best).to(tl.int64))
            tl.store(scores + program * count + step, tl.where(broken > 0, float("nan"), best_score))
            products = tl.zeros((BLOCK_C,), dtype=tl.float32)
            for start in range(0, width, BLOCK_E):
                has_joint = start + joint < width
                mask = exists[:, None] & has_joint[None, :]
                c = tl.load(rows[:, None] + (start + joint)[None, :], mask=mask, other=0.0)
                last = tl.load(base + best.to(tl.int64) * width + start + joint, mask=has_joint, other=0.0)
                products += tl.sum(c * last[None, :], axis=1)
            pairs = norms * tl.sum(tl.where(candidate == best, norms, 0.0), axis=0)
            cosine = tl.where(pairs == 0.0, 0.0, products / tl.where(pairs == 0.0, 1.0, pairs))
            if PREVIOUS:
                penalty = cosine
            else:
                penalty = tl.where((step > 0) & (cosine <= penalty), penalty, cosine)
        weight = tl.where(free, 0.0, 1.0 / count)
    else:
        place = tl.where(broken > 0, -1, candidate)
        tl.store(indices + out, place.to(tl.int64), mask=exists)
        tl.store(scores + out, alpha * z, mask=exists)
        weight = tl.full((BLOCK_C,), 1.0, dtype=tl.float32) / count
    tl.store(weights + out, tl.where(broken > 0, float("nan"), weight), mask=exists)


def launch(
    attention: Tensor,
    values: Tensor,
    projection: Tensor,
    text: Tensor,
    *,
    options: HeadScoreOptions,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> HeadScores[Tensor]:
    """Allocate the outputs beside the inputs and fill them in two launches, none where there is nothing to fill.

    Shapes, dtypes, devices and contiguity have been checked by ``eyeshine_kernels.head_scores.head_scores``.

    Raises:
        KernelError: more than 256 candidates.
    """
    import torch

    images, blocks, heads, tokens = attention.shape
    prompts, width = text.shape
    depth, last = values.shape[3] // heads, options.candidate_blocks
    candidates = last * heads
    if candidates > MAX_CANDIDATES:
        raise KernelError(
            f"too many heads to choose from: got {candidates}, allowed up to {MAX_CANDIDATES}; take fewer blocks"
        )
    count = options.chosen(candidates)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=attention.device)

    per_head = (images, prompts, last, heads)
    found = HeadScores(
        indices=empty(images, prompts, count, dtype=torch.int64),
        scores=empty(images, prompts, count),
        relevance=empty(*per_head),
        standardised=empty(*per_head),
        weights=empty(*per_head),
        contributions=empty(images, last, heads, width),
    )
    # Triton launches on the current device, which need not be the one of the tensors.
    with torch.cuda.device(attention.device) if attention.is_cuda else contextlib.nullcontext():
        if images:
            block_e = min(_WIDTH, next_power_of_2(width))
            contributions_kernel[(images * candidates * triton.cdiv(width, block_e),)](
                *(attention, values, projection, scale, offset, found.contributions),
                *(blocks, last, heads, tokens, depth, width),
                BLOCK_T=min(_TOKENS, next_power_of_2(tokens)),
                BLOCK_D=min(_DEPTH, next_power_of_2(depth)),
                BLOCK_E=block_e,
                num_warps=_WARPS,
                enable_fp_fusion=True,
            )
        if images and prompts:
            block_c = next_power_of_2(candidates)
            choose_kernel[(images * prompts,)](
                *(found.contributions, text, found.indices, found.scores),
                *(found.relevance, found.standardised, found.weights),
                *(prompts, candidates, width, count),
                *(float(options.head_alpha), float(options.head_beta), FLAT),
                GREEDY=options.strategy != "layers",
                PREVIOUS=options.penalty == "previous",
                BLOCK_C=block_c,
                BLOCK_E=_columns(block_c, width),
                num_warps=_CHOOSE_WARPS,
                enable_fp_fusion=True,
            )
    return found


def _columns(block_c: int, width: int) -> int:
    """Channels of the joint space in a tile of all candidates."""
    return min(_CANDIDATE_TILE // block_c, _WIDTH, next_power_of_2(width))


def _contributions_variant(element: str, *, extras: bool) -> dict[str, object]:
    """Signature (argument name to type) and constants of one ahead-of-time compilation."""
    signature = dict.fromkeys(("attention", "values", "projection"), f"*{element}") | {"contributions": "*fp32"}
    signature |= dict.fromkeys(("blocks", "candidate_blocks", "heads", "tokens", "depth", "width"), "i32")
    constants: dict[str, object] = {"BLOCK_T": _TOKENS, "BLOCK_D": _DEPTH, "BLOCK_E": _WIDTH}
    for name in ("scale", "offset"):
        if extras:
            signature[name] = "*fp32"
        else:
            constants[name] = None
    return {"kernel": contributions_kernel, "signature": signature, "constants": constants, "num_warps": _WARPS}


def _choose_variant(element: str, block_c: int, *, greedy: bool, previous: bool) -> dict[str, object]:
    """As above; 16, 64 and 256 candidates are one block, four blocks and the most there can be."""
    signature = {"text": f"*{element}", "indices": "*i64"}
    signature |= dict.fromkeys(("contributions", "scores", "relevance", "standardised", "weights"), "*fp32")
    signature |= dict.fromkeys(("prompts", "candidates", "width", "count"), "i32")
    signature |= dict.fromkeys(("alpha", "beta", "flat"), "fp32")
    constants = {"GREEDY": greedy, "PREVIOUS": previous, "BLOCK_C": block_c, "BLOCK_E": _columns(block_c, 512)}
    return {"kernel": choose_kernel, "signature": signature, "constants": constants, "num_warps": _CHOOSE_WARPS}


# What is compiled ahead of time, by name: each input dtype with every optional input, each strategy and each penalty.
AOT = {
    "contributions_plain_fp32": _contributions_variant("fp32", extras=False),
    **{
        f"contributions_full_{element}": _contributions_variant(element, extras=True)
        for element in ("fp32", "fp16", "bf16")
    },
    "choose_all_fp32": _choose_variant("fp32", 64, greedy=False, previous=True),
    "choose_previous_16_fp16": _choose_variant("fp16", 16, greedy=True, previous=True),
    "choose_previous_64_bf16": _choose_variant("bf16", 64, greedy=True, previous=True),
    "choose_previous_64_fp32": _choose_variant("fp32", 64, greedy=True, previous=True),
    "choose_max_256_fp32": _choose_variant("fp32", 256, greedy=True, previous=False),
}
