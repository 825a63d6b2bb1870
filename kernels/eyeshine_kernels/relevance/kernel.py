"""``relevance`` in Triton: one launch for all images, prompts and blocks. The definition is reference.py beside it.

Importing this file decorates the kernel, which fixes whether it is compiled or interpreted; torch is imported by the
launch alone, so that hosts without torch can compile ahead of time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from eyeshine_kernels.backend import interpreting, next_power_of_2
from eyeshine_kernels.relevance.options import RelevanceOptions

if TYPE_CHECKING:
    from torch import Tensor

# Tile sizes, chosen on paper and not measured on a GPU. 16 is the least that tensor cores take. Patches come in small
# tiles because at batch 1 there is nothing else to spread over the multiprocessors: 196 patches make 7 programs.
_LEAST = 16
_MOST_PROMPTS, _MOST_PATCHES, _MOST_DEPTH = 64, 32, 64
_WARPS = 4


@triton.jit
def relevance_kernel(
    gradient,  # pointer, g, (B, P, K, H * depth)
    values,  # pointer, V, (B, K, first_patch + N, H * depth)
    attention,  # pointer, A, (B, K, H, first_patch + N), or None where p = 0
    head_weights,  # pointer, w, (H,), (K, H) or (B, P, K, H), or None
    patch_weights,  # pointer, lambda, (B, K, N), or None
    out,  # pointer, (B, P, K, N), float32
    prompts,  # P
    blocks,  # K
    patches,  # N
    heads,  # H
    depth,  # channels of a head
    weight_stride,  # from one block to the next in w: H, or 0 where all blocks share (H,)
    scale,  # 1 or 1/H
    FIRST_PATCH: tl.constexpr,  # 1 with a class token, else 0
    HEAD_RELU: tl.constexpr,  # phi
    SIGNED: tl.constexpr,  # phi_out is the identity
    PER_PROMPT: tl.constexpr,  # w is (B, P, K, H)
    UPCAST: tl.constexpr,  # multiply in fp32 instead of the dtype of gradient and values
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: BLOCK_P prompts times BLOCK_N patches of one block of one image, over all heads. All contiguous."""
    patch_tiles = tl.cdiv(patches, BLOCK_N)
    prompt_tiles = tl.cdiv(prompts, BLOCK_P)
    # Offsets are computed in 64 bits: B * K * T * D passes 2^31 at batch 1200 for 12 blocks of B/16.
    program = tl.program_id(0).to(tl.int64)
    patch_tile = program % patch_tiles
    prompt_tile = (program // patch_tiles) % prompt_tiles
    image_block = program // patch_tiles // prompt_tiles
    image = image_block // blocks
    block = image_block % blocks

    prompt = prompt_tile * BLOCK_P + tl.arange(0, BLOCK_P)
    patch = patch_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_D)
    has_prompt = prompt < prompts
    has_patch = patch < patches
    width = heads * depth
    tokens = patches + FIRST_PATCH
    gradient_rows = gradient + ((image * prompts + prompt) * blocks + block) * width
    value_rows = values + (image_block * tokens + FIRST_PATCH + patch) * width

    total = tl.zeros((BLOCK_P, BLOCK_N), dtype=tl.float32)
    for head in range(heads):
        evidence = tl.zeros((BLOCK_P, BLOCK_N), dtype=tl.float32)
        for start in range(0, depth, BLOCK_D):
            has_channel = start + channel < depth
            offset = head * depth + start + channel
            g = tl.load(
                gradient_rows[:, None] + offset[None, :], mask=has_prompt[:, None] & has_channel[None, :], other=0.0
            )
            v = tl.load(
                value_rows[None, :] + offset[:, None], mask=has_patch[None, :] & has_channel[:, None], other=0.0
            )
            if UPCAST:
                g = g.to(tl.float32)
                v = v.to(tl.float32)
            # "ieee": tf32 would keep 10 bits of an fp32 input.
            evidence = tl.dot(g, v, evidence, input_precision="ieee")
        if attention is not None:
            row = attention + (image_block * heads + head) * tokens + FIRST_PATCH
            evidence *= tl.load(row + patch, mask=has_patch, other=0.0).to(tl.float32)[None, :]
        if HEAD_RELU:
            # Not tl.maximum, which turns a NaN into 0 and hides that an engine went wrong.
            evidence = tl.where(evidence <= 0.0, 0.0, evidence)
        if head_weights is not None:
            if PER_PROMPT:
                row = head_weights + ((image * prompts + prompt) * blocks + block) * heads + head
                evidence *= tl.load(row, mask=has_prompt, other=0.0).to(tl.float32)[:, None]
            else:
                evidence *= tl.load(head_weights + block * weight_stride + head).to(tl.float32)
        total += evidence
    total *= scale
    if not SIGNED:
        total = tl.where(total <= 0.0, 0.0, total)
    if patch_weights is not None:
        row = patch_weights + image_block * patches
        total *= tl.load(row + patch, mask=has_patch, other=0.0).to(tl.float32)[None, :]
    out_rows = out + ((image * prompts + prompt) * blocks + block) * patches
    tl.store(out_rows[:, None] + patch[None, :], total, mask=has_prompt[:, None] & has_patch[None, :])


def _tile(size: int, most: int) -> int:
    return min(most, max(_LEAST, next_power_of_2(size)))


def launch(
    gradient: Tensor,
    values: Tensor,
    *,
    heads: int,
    options: RelevanceOptions,
    attention: Tensor | None = None,
    head_weights: Tensor | None = None,
    patch_weights: Tensor | None = None,
) -> Tensor:
    """Allocate [B, P, K, N] float32 beside the inputs and fill it in one launch, none where it is empty.

    Shapes, dtypes, devices and contiguity have been checked by ``eyeshine_kernels.relevance.relevance``.
    """
    import torch

    images, prompts, blocks, width = gradient.shape
    patches = values.shape[2] - options.first_patch
    out = torch.empty((images, prompts, blocks, patches), dtype=torch.float32, device=gradient.device)
    if out.numel() == 0:
        return out
    depth = width // heads
    block_p, block_n = _tile(prompts, _MOST_PROMPTS), _tile(patches, _MOST_PATCHES)
    grid = (images * blocks * triton.cdiv(prompts, block_p) * triton.cdiv(patches, block_n),)
    # Gradient and values may differ in dtype. And the interpreter of triton 3.9 multiplies bit patterns where both are
    # bf16; the product of two bf16 is exact in fp32, so the numbers are those of a device.
    upcast = gradient.dtype != values.dtype or (interpreting() and values.dtype is torch.bfloat16)
    per_block = head_weights is not None and head_weights.ndim == 2
    # Triton launches on the current device, which need not be the one of the tensors.
    with torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext():
        relevance_kernel[grid](
            gradient,
            values,
            attention,
            head_weights,
            patch_weights,
            out,
            prompts,
            blocks,
            patches,
            heads,
            depth,
            heads if per_block else 0,
            options.scale(heads),
            FIRST_PATCH=options.first_patch,
            HEAD_RELU=options.head_relu,
            SIGNED=options.signed,
            PER_PROMPT=head_weights is not None and head_weights.ndim == 4,
            UPCAST=upcast,
            BLOCK_P=block_p,
            BLOCK_N=block_n,
            BLOCK_D=_tile(depth, _MOST_DEPTH),
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return out


def _variant(
    element: str, *, attention: bool, weights: bool, signed: bool, head_relu: bool, per_prompt: bool = False
) -> dict[str, object]:
    """Signature (argument name to type) and constants of one ahead-of-time compilation."""
    signature = {"gradient": f"*{element}", "values": f"*{element}", "out": "*fp32", "scale": "fp32"}
    signature |= dict.fromkeys(("prompts", "blocks", "patches", "heads", "depth", "weight_stride"), "i32")
    constants: dict[str, object] = {
        "FIRST_PATCH": 1,
        "HEAD_RELU": head_relu,
        "SIGNED": signed,
        "PER_PROMPT": per_prompt,
        "UPCAST": False,
        "BLOCK_P": _LEAST,
        "BLOCK_N": _MOST_PATCHES,
        "BLOCK_D": _MOST_DEPTH,
    }
    for name, kind, used in (
        ("attention", element, attention),
        ("head_weights", "fp32", weights),
        ("patch_weights", "fp32", weights),
    ):
        if used:
            signature[name] = f"*{kind}"
        else:
            constants[name] = None
    return {"kernel": relevance_kernel, "signature": signature, "constants": constants, "num_warps": _WARPS}


# What is compiled ahead of time, by name: each input dtype with every optional input, and once with none.
AOT = {
    "relevance_plain_fp32": _variant("fp32", attention=False, weights=False, signed=False, head_relu=False),
    **{
        f"relevance_full_{element}": _variant(element, attention=True, weights=True, signed=True, head_relu=True)
        for element in ("fp32", "fp16", "bf16")
    },
    "relevance_heads_fp32": _variant(
        "fp32", attention=False, weights=True, signed=False, head_relu=False, per_prompt=True
    ),
}
