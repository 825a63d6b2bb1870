"""``normalize`` in Triton, one launch; ``reference.py`` is the definition.

torch is imported by the launch alone, so that hosts without it can compile ahead of time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from eyeshine_kernels.backend import KernelError, interpreting, next_power_of_2
from eyeshine_kernels.normalize.reference import NormalizeOptions, check_shapes

if TYPE_CHECKING:
    import torch

__all__ = ["AOT", "MAX_PATCHES", "normalize_kernel", "triton_normalize"]

# A row lives in the registers of one program: 32 warps hold 64 values per thread at this size, more would spill.
MAX_PATCHES = 65536

_DTYPES = ("float32", "float16", "bfloat16")


@triton.jit
def _min_max(values, mask, epsilon):
    """(x - min) / (max - min + epsilon) of a row; lanes outside ``mask`` count for nothing and hold no meaning."""
    low = tl.min(tl.where(mask, values, float("inf")), axis=0)
    high = tl.max(tl.where(mask, values, float("-inf")), axis=0)
    # Rounded to nearest: the quick division is off by up to 2 units, and the largest value could pass 1.
    return tl.div_rn(values - low, high - low + epsilon)


@triton.jit
def normalize_kernel(
    gradient_ptr,  # [B, P, N], float32, float16 or bfloat16, strides below
    attention_ptr,  # [B, P, N], as above; stride 0 over P shares a row; read only if HAS_ATTENTION
    heat_ptr,  # [B, P, N], contiguous, every element is written
    prompts,  # P
    patches,  # N
    gradient_stride_b,
    gradient_stride_p,
    gradient_stride_n,
    attention_stride_b,
    attention_stride_p,
    attention_stride_n,
    rest,  # 1 - alpha
    alpha,
    boosting,  # 1 / beta for "gamma", beta for "clip"
    epsilon,
    background,
    RELU: tl.constexpr,
    BOOST: tl.constexpr,  # "none", "gamma" or "clip"
    HAS_ATTENTION: tl.constexpr,
    SUPPRESS: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two, at least N
):
    """One program per row (b, p): each input is read once, the statistics stay in registers, one row is written."""
    row = tl.program_id(0)
    image = (row // prompts).to(tl.int64)
    prompt = (row % prompts).to(tl.int64)
    patch = tl.arange(0, BLOCK).to(tl.int64)
    mask = patch < patches

    source = gradient_ptr + image * gradient_stride_b + prompt * gradient_stride_p
    heat = tl.load(source + patch * gradient_stride_n, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        # Asked this way round, here and below, a NaN stays: maximum and minimum would make a number of it.
        heat = tl.where(heat < 0.0, 0.0, heat)
    heat = _min_max(heat, mask, epsilon)

    if BOOST == "gamma":
        positive = heat > 0.0
        # The logarithm is kept from 0 and from the lanes outside the row, which may hold anything.
        heat = tl.where(positive, tl.exp2(tl.log2(tl.where(positive, heat, 1.0)) * boosting), heat)
    elif BOOST == "clip":
        heat = heat * boosting
        heat = tl.where(heat > 1.0, 1.0, heat)

    if HAS_ATTENTION:
        source = attention_ptr + image * attention_stride_b + prompt * attention_stride_p
        attention = tl.load(source + patch * attention_stride_n, mask=mask, other=0.0).to(tl.float32)
        heat = rest * _min_max(attention, mask, epsilon) + alpha * heat

    if SUPPRESS:
        threshold = background * tl.max(tl.where(mask, heat, float("-inf")), axis=0)
        heat = tl.where(heat <= threshold, 0.0, heat)

    target = heat_ptr + row.to(tl.int64) * patches
    tl.store(target + patch, heat.to(heat_ptr.dtype.element_ty), mask=mask)


def triton_normalize(gradient: torch.Tensor, attention: torch.Tensor | None, options: NormalizeOptions) -> torch.Tensor:
    """Compute ``reference_normalize`` on the device of the gradient, in one launch.

    Args:
        gradient: [B, P, N], float32, float16 or bfloat16, any strides (nothing is copied), N up to 65536.
        attention: [B, 1 or P, N], the same kinds, on the same device, or None.
        options: settings.

    Returns:
        [B, P, N] in 0..1, in the gradient's dtype, contiguous, on its device; without autograd history.

    Raises:
        KernelError: a shape, a dtype or a device that is not allowed, or a row that is too long.
    """
    import torch

    for name, tensor in {"gradient": gradient, "attention": attention}.items():
        if tensor is not None:
            _check_tensor(name, tensor)
    check_shapes(tuple(gradient.shape), None if attention is None else tuple(attention.shape))
    if attention is not None and attention.device != gradient.device:
        raise KernelError(
            f"attention is on another device: got {attention.device}, allowed the gradient's, {gradient.device}"
        )
    images, prompts, patches = gradient.shape
    if patches > MAX_PATCHES:
        raise KernelError(f"too many patches in a row: got {patches}, allowed up to {MAX_PATCHES}")
    heat = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
    if not heat.numel():
        return heat
    shared = gradient if attention is None else attention.expand(images, prompts, patches)
    block = next_power_of_2(patches)
    # Triton launches on the current device, which need not be the tensor's; this does nothing for a CPU tensor.
    with torch.cuda.device_of(gradient):
        normalize_kernel[(images * prompts,)](
            gradient,
            shared,
            heat,
            prompts,
            patches,
            *gradient.stride(),
            *shared.stride(),
            float(1 - options.alpha),
            float(options.alpha),
            float(1 / options.beta if options.boost == "gamma" else options.beta),
            float(options.epsilon),
            float(options.background),
            RELU=options.relu,
            BOOST="none" if options.beta == 1 else options.boost,
            HAS_ATTENTION=attention is not None,
            SUPPRESS=options.background > 0,
            BLOCK=block,
            num_warps=_warps(block),
            enable_fp_fusion=True,
        )
    return heat


def _warps(block: int) -> int:
    """8 values per lane, up to the largest program; chosen on paper, not measured on a GPU."""
    return min(max(block // 256, 1), 32)


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor) or str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
        got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise KernelError(f"{name} cannot be computed: got {got}, allowed a torch tensor of {', '.join(_DTYPES)}")
    if not (tensor.is_cuda or interpreting()):
        raise KernelError(f"{name} is not on a GPU: got device {tensor.device}, allowed a CUDA device")


# One size for any grid of up to 1024 patches: lanes beyond a short row idle, its statistics cost what they cost anyway.
_AOT_BLOCK = 1024


def _variant(element: str, *, fused: bool) -> dict[str, object]:
    """Signature (argument name to type) and constants of one ahead-of-time compilation."""
    signature = dict.fromkeys(("gradient_ptr", "attention_ptr", "heat_ptr"), f"*{element}")
    signature |= dict.fromkeys(("prompts", "patches"), "i32")
    signature |= {f"{name}_stride_{axis}": "i64" for name in ("gradient", "attention") for axis in "bpn"}
    signature |= dict.fromkeys(("rest", "alpha", "boosting", "epsilon", "background"), "fp32")
    constants = {"RELU": True, "BOOST": "gamma", "HAS_ATTENTION": fused, "SUPPRESS": fused, "BLOCK": _AOT_BLOCK}
    return {
        "kernel": normalize_kernel,
        "signature": signature,
        "constants": constants,
        "num_warps": _warps(_AOT_BLOCK),
    }


# What is compiled ahead of time, by name: each dtype, the boosted gradient alone and all four steps.
AOT = {
    f"normalize_{name}_{element}": _variant(element, fused=fused)
    for element in ("fp32", "fp16", "bf16")
    for name, fused in {"plain": False, "fused": True}.items()
}
