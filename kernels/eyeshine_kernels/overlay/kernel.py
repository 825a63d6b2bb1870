"""``overlay`` in Triton, one launch; ``reference.py`` is the definition.

torch is imported by the launch alone, so that hosts without it can compile ahead of time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from eyeshine_kernels.overlay.reference import GREY, MARK, check_shapes, mute_steps
from eyeshine_kernels.upsample.kernel import (
    BLOCK_X,
    BLOCK_Y,
    FLOATS,
    WARPS,
    bilinear,
    check_tensors,
    crop_box,
    places,
)
from eyeshine_kernels.upsample.reference import check_shapes as check_maps

if TYPE_CHECKING:
    import torch

__all__ = ["AOT", "overlay_kernel", "triton_overlay"]

# Programs that keep a large GPU busy: 8 on each of 132 multiprocessors. Chosen on paper, not measured on a GPU.
_ENOUGH = 1056

_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in GREY)
_MARK_RED, _MARK_GREEN, _MARK_BLUE = (tl.constexpr(value) for value in MARK)


@triton.jit
def _muted(channel, grey, mute):
    return ((65536 - mute) * channel + mute * grey + 32768) >> 16


@triton.jit
def _blended(photo, colour, level, strength, broken, mark):
    """One channel, uint8; the shifts are the rounded division by 255, exact for all it can get here."""
    total = (255 - strength) * photo + strength * tl.load(colour + level * 3).to(tl.int32) + 128
    return tl.where(broken, mark, (total + (total >> 8)) >> 8).to(tl.uint8)


@triton.jit
def overlay_kernel(
    photos,  # pointer, (B, H, W, 3), uint8
    maps,  # pointer, (B, P, h, w), float32, float16 or bfloat16
    colours,  # pointer, (256, 3), uint8
    strengths,  # pointer, (256,), uint8
    crops,  # pointer, (B, 4), float32: y0, x0, y1, x1; or None for whole images
    out,  # pointer, (B, P, H, W, 3), uint8, every element is written
    prompts,  # P
    share,  # prompts per program
    rows,  # h
    columns,  # w
    height,  # H
    width,  # W
    mute,  # in 1/65536
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """One program: BLOCK_Y x BLOCK_X pixels of one image, which it reads once, under ``share`` prompts. All contiguous.

    A lane has a pixel, and stores its channels three bytes apart: the three stores of a warp fill the same sectors,
    which the second-level cache merges. Lanes of single bytes would store side by side but interpolate, look up and
    turn to grey three times what they need once.
    """
    program = tl.program_id(0)
    tiles_x = tl.cdiv(width, BLOCK_X)
    tiles_y = tl.cdiv(height, BLOCK_Y)
    shares = tl.cdiv(prompts, share)
    x = program % tiles_x * BLOCK_X + tl.arange(0, BLOCK_X)
    y = (program // tiles_x) % tiles_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    first = (program // tiles_x // tiles_y) % shares * share
    # Offsets are computed in 64 bits: 87 pictures of 4K pass 2^31.
    image = (program // tiles_x // tiles_y // shares).to(tl.int64)
    inside = (y < height)[:, None] & (x < width)[None, :]

    y0, x0, y1, x1 = crop_box(crops, image, height, width)
    upper, lower, down, unseen_y = places(y, y0, y1, rows)
    left, right, across, unseen_x = places(x, x0, x1, columns)
    seen = inside & ((unseen_y[:, None] | unseen_x[None, :]) == 0)

    pixel = photos + ((image * height + y) * width * 3)[:, None] + (x * 3)[None, :]
    red = tl.load(pixel, mask=inside, other=0).to(tl.int32)
    green = tl.load(pixel + 1, mask=inside, other=0).to(tl.int32)
    blue = tl.load(pixel + 2, mask=inside, other=0).to(tl.int32)
    grey = (_RED * red + _GREEN * green + _BLUE * blue + 32768) >> 16
    red = _muted(red, grey, mute)
    green = _muted(green, grey, mute)
    blue = _muted(blue, grey, mute)

    for prompt in range(first, tl.minimum(first + share, prompts)):
        one = image * prompts + prompt
        heat = bilinear(maps + one * rows * columns, columns, upper, lower, down, left, right, across, seen)
        broken = heat != heat
        heat = tl.where(heat > 0.0, heat, 0.0)  # a NaN becomes 0 here: its level is looked up, but not shown
        level = (tl.where(heat < 1.0, heat, 1.0) * 255.0 + 0.5).to(tl.int32)
        strength = tl.load(strengths + level).to(tl.int32)
        target = out + ((one * height + y) * width * 3)[:, None] + (x * 3)[None, :]
        tl.store(target, _blended(red, colours, level, strength, broken, _MARK_RED), mask=inside)
        tl.store(target + 1, _blended(green, colours + 1, level, strength, broken, _MARK_GREEN), mask=inside)
        tl.store(target + 2, _blended(blue, colours + 2, level, strength, broken, _MARK_BLUE), mask=inside)


def triton_overlay(
    images: torch.Tensor,
    maps: torch.Tensor,
    colours: torch.Tensor,
    strengths: torch.Tensor,
    mute: float,
    crops: torch.Tensor | None,
) -> torch.Tensor:
    """Compute ``reference_overlay`` on the device of the images, in one launch, none where the result is empty.

    Args:
        images: [B, H, W, 3], uint8, contiguous, as all.
        maps: [B, P, h, w], float32, float16 or bfloat16.
        colours: [256, 3], uint8.
        strengths: [256], uint8.
        mute: 0..1.
        crops: [B, 4], float32, or None; its values are not looked at.

    Returns:
        [B, P, H, W, 3], uint8, contiguous, on the same device.

    Raises:
        KernelError: a shape, a dtype, a device, a layout or a value that is not allowed.
    """
    import torch

    named = {name: (tensor, ("uint8",)) for name, tensor in (("images", images), ("colours", colours))}
    named |= {"strengths": (strengths, ("uint8",)), "maps": (maps, FLOATS), "crops": (crops, ("float32",))}
    check_tensors(named)
    check_shapes(tuple(images.shape), tuple(maps.shape), tuple(colours.shape), tuple(strengths.shape))
    steps = mute_steps(mute)
    count, height, width, _ = images.shape
    check_maps(tuple(maps.shape), (height, width), None if crops is None else tuple(crops.shape))
    prompts, rows, columns = maps.shape[1:]
    out = torch.empty((count, prompts, height, width, 3), dtype=torch.uint8, device=images.device)
    if not out.numel():
        return out
    tiles = count * triton.cdiv(height, BLOCK_Y) * triton.cdiv(width, BLOCK_X)
    share = prompts_per_program(tiles, prompts)
    # Triton launches on the current device, which need not be the tensors'; this does nothing for CPU tensors.
    with torch.cuda.device_of(images):
        overlay_kernel[(tiles * triton.cdiv(prompts, share),)](
            images,
            maps,
            colours,
            strengths,
            crops,
            out,
            prompts,
            share,
            rows,
            columns,
            height,
            width,
            steps,
            BLOCK_Y=BLOCK_Y,
            BLOCK_X=BLOCK_X,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return out


def prompts_per_program(tiles: int, prompts: int) -> int:
    """All prompts, so that the image is read once, unless that leaves a large GPU idle; then fewer."""
    return triton.cdiv(prompts, min(prompts, triton.cdiv(_ENOUGH, tiles)))


def _variant(element: str) -> dict[str, object]:
    """Signature (argument name to type) and constants of one ahead-of-time compilation."""
    signature = {"maps": f"*{element}", "crops": "*fp32"}
    signature |= dict.fromkeys(("photos", "colours", "strengths", "out"), "*u8")
    signature |= dict.fromkeys(("prompts", "share", "rows", "columns", "height", "width", "mute"), "i32")
    return {
        "kernel": overlay_kernel,
        "signature": signature,
        "constants": {"BLOCK_Y": BLOCK_Y, "BLOCK_X": BLOCK_X},
        "num_warps": WARPS,
    }


# What is compiled ahead of time, by name: each dtype, with crops, as (0, 0, H, W) is the whole image.
AOT = {f"overlay_{element}": _variant(element) for element in ("fp32", "fp16", "bf16")}
