"""``upsample`` in Triton, one launch; ``reference.py`` is the definition. ``overlay`` interpolates with it as well.

torch is imported by the launch alone, so that hosts without it can compile ahead of time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from eyeshine_kernels.backend import KernelError, interpreting
from eyeshine_kernels.upsample.reference import EDGE, check_shapes

if TYPE_CHECKING:
    import torch

__all__ = [
    "AOT",
    "BLOCK_X",
    "BLOCK_Y",
    "FLOATS",
    "WARPS",
    "bilinear",
    "check_tensors",
    "crop_box",
    "places",
    "triton_upsample",
    "upsample_kernel",
]

# A tile of pixels per program, chosen on paper and not measured on a GPU: a warp stores 128 pixels that lie side by
# side, and what a column or a row of the tile has in common is computed once for it. A flat range of pixels would
# idle no lane at the right edge but needs a division and both places for each pixel.
BLOCK_Y, BLOCK_X, WARPS = 8, 128, 4

FLOATS = ("float32", "float16", "bfloat16")

_EDGE = tl.constexpr(EDGE)


@triton.jit
def places(pixel, start, stop, cells):
    """Of each pixel of an axis: the cell before it, the cell after it, the share of the latter, and if it is unseen."""
    centre = pixel.to(tl.float32) + 0.5
    # "* 1.0" and not ".to": an argument that is 1 at a launch is a constant of the compiler, which has no ".to".
    place = (centre - start) * tl.div_rn(cells * 1.0, stop - start) - 0.5
    # Asked this way round a NaN of the crop stays: minimum and maximum would make a number of it.
    place = tl.where(place < 0.0, 0.0, place)
    last = cells - 1
    place = tl.where(place > last, last * 1.0, place)
    # A NaN could become any integer, and no load may leave the map.
    first = tl.where(place == place, place, 0.0).to(tl.int32)
    # Not the opposite, "seen", which would be false where the crop is NaN.
    unseen = (start - centre > _EDGE) | (centre - stop > _EDGE)
    return first, tl.minimum(first + 1, last), place - first, unseen


@triton.jit
def bilinear(grid, columns, upper, lower, down, left, right, across, seen):
    """float32 [rows, columns of pixels]: one map at its places, 0 where it is not seen. The map stays in the cache."""
    above = grid + upper[:, None] * columns
    below = grid + lower[:, None] * columns
    # Masked, though no load leaves the map: lanes beyond the image would ask for what nobody needs.
    upper_left = tl.load(above + left[None, :], mask=seen, other=0.0).to(tl.float32)
    lower_left = tl.load(below + left[None, :], mask=seen, other=0.0).to(tl.float32)
    upper_right = tl.load(above + right[None, :], mask=seen, other=0.0).to(tl.float32)
    lower_right = tl.load(below + right[None, :], mask=seen, other=0.0).to(tl.float32)
    before = upper_left + down[:, None] * (lower_left - upper_left)
    after = upper_right + down[:, None] * (lower_right - upper_right)
    # The places of pixels that are not seen can be NaN.
    return tl.where(seen, before + across[None, :] * (after - before), 0.0)


@triton.jit
def crop_box(crops, image, height, width):
    """y0, x0, y1, x1 of an image in float32 pixels."""
    if crops is not None:
        y0 = tl.load(crops + image * 4)
        x0 = tl.load(crops + image * 4 + 1)
        y1 = tl.load(crops + image * 4 + 2)
        x1 = tl.load(crops + image * 4 + 3)
    else:
        y0 = 0.0
        x0 = 0.0
        y1 = height * 1.0
        x1 = width * 1.0
    return y0, x0, y1, x1


@triton.jit
def upsample_kernel(
    maps,  # pointer, (B, P, h, w), float32, float16 or bfloat16
    crops,  # pointer, (B, 4), float32: y0, x0, y1, x1; or None for whole images
    out,  # pointer, (B, P, H, W), of the maps' dtype, every element is written
    prompts,  # P
    rows,  # h
    columns,  # w
    height,  # H
    width,  # W
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """One program: BLOCK_Y x BLOCK_X pixels of one map. All contiguous."""
    program = tl.program_id(0)
    tiles_x = tl.cdiv(width, BLOCK_X)
    tiles_y = tl.cdiv(height, BLOCK_Y)
    y = (program // tiles_x) % tiles_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = program % tiles_x * BLOCK_X + tl.arange(0, BLOCK_X)
    # Offsets are computed in 64 bits: 260 maps of 4K pass 2^31. Only they are: dividing in 64 bits is slow.
    one = (program // tiles_x // tiles_y).to(tl.int64)
    inside = (y < height)[:, None] & (x < width)[None, :]

    y0, x0, y1, x1 = crop_box(crops, one // prompts, height, width)
    upper, lower, down, unseen_y = places(y, y0, y1, rows)
    left, right, across, unseen_x = places(x, x0, x1, columns)
    seen = inside & ((unseen_y[:, None] | unseen_x[None, :]) == 0)
    heat = bilinear(maps + one * rows * columns, columns, upper, lower, down, left, right, across, seen)
    line = out + (one * height + y) * width
    tl.store(line[:, None] + x[None, :], heat.to(out.dtype.element_ty), mask=inside)


def triton_upsample(maps: torch.Tensor, size: tuple[int, int], crops: torch.Tensor | None) -> torch.Tensor:
    """Compute ``reference_upsample`` on the device of the maps, in one launch, none where the result is empty.

    Args:
        maps: [B, P, h, w], float32, float16 or bfloat16, contiguous.
        size: (H, W).
        crops: [B, 4], float32, contiguous, on the same device, or None; its values are not looked at.

    Returns:
        [B, P, H, W] in the maps' dtype, contiguous, on their device; without autograd history.

    Raises:
        KernelError: a shape, a dtype, a device or a layout that is not allowed.
    """
    import torch

    check_tensors({"maps": (maps, FLOATS), "crops": (crops, ("float32",))})
    check_shapes(tuple(maps.shape), size, None if crops is None else tuple(crops.shape))
    images, prompts, rows, columns = maps.shape
    height, width = map(int, size)
    out = torch.empty((images, prompts, height, width), dtype=maps.dtype, device=maps.device)
    if not out.numel():
        return out
    tiles = triton.cdiv(height, BLOCK_Y) * triton.cdiv(width, BLOCK_X)
    # Triton launches on the current device, which need not be the tensor's; this does nothing for a CPU tensor.
    with torch.cuda.device_of(maps):
        upsample_kernel[(images * prompts * tiles,)](
            maps,
            crops,
            out,
            prompts,
            rows,
            columns,
            height,
            width,
            BLOCK_Y=BLOCK_Y,
            BLOCK_X=BLOCK_X,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return out


def check_tensors(named: dict[str, tuple[Any, tuple[str, ...]]]) -> None:
    """Check that each tensor has one of its dtypes, is contiguous and lies on the first one's GPU; None is passed by.

    Raises:
        KernelError: another kind, dtype, layout or device.
    """
    import torch

    first = None
    for name, (tensor, allowed) in named.items():
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor) or str(tensor.dtype).removeprefix("torch.") not in allowed:
            got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise KernelError(f"{name} cannot be computed: got {got}, allowed a torch tensor of {', '.join(allowed)}")
        if not tensor.is_contiguous():
            raise KernelError(f"{name}: got strides {tensor.stride()}, allowed contiguous only; call .contiguous()")
        if not (tensor.is_cuda or interpreting()):
            raise KernelError(f"{name} is not on a GPU: got device {tensor.device}, allowed a CUDA device")
        first = tensor if first is None else first
        if tensor.device != first.device:
            raise KernelError(f"{name} is on another device: got {tensor.device}, allowed {first.device}")


def _variant(element: str) -> dict[str, object]:
    """Signature (argument name to type) and constants of one ahead-of-time compilation."""
    return {
        "kernel": upsample_kernel,
        "signature": {"maps": f"*{element}", "crops": "*fp32", "out": f"*{element}"}
        | dict.fromkeys(("prompts", "rows", "columns", "height", "width"), "i32"),
        "constants": {"BLOCK_Y": BLOCK_Y, "BLOCK_X": BLOCK_X},
        "num_warps": WARPS,
    }


# What is compiled ahead of time, by name: each dtype, with crops, as (0, 0, H, W) is the whole image.
AOT = {f"upsample_{element}": _variant(element) for element in ("fp32", "fp16", "bf16")}
