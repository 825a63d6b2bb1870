"""Relevance of patches: products of a gradient with values, weighed by attention, heads merged, one map per prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import Backend, KernelError, check_kind, resolve
from eyeshine_kernels.relevance.options import PRESETS, RelevanceOptions
from eyeshine_kernels.relevance.reference import relevance_reference

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PRESETS", "RelevanceOptions", "relevance", "relevance_reference"]

Array = NDArray[np.floating]
T = TypeVar("T", bound="Array | Tensor")


def relevance(
    gradient: T,
    values: T,
    *,
    heads: int,
    options: RelevanceOptions | str = "grad_eclip",
    attention: T | None = None,
    head_weights: T | None = None,
    patch_weights: T | None = None,
    backend: Backend | None = None,
) -> T:
    """``out_i = phi_out(scale * sum_h w_h * phi(A_h[i]^p * u[h, i])) * lambda_i`` with ``u[h, i] = <g_h, V_{h,i}>``.

    For a target c and the class token's heads O, g = dc/dO[class], u[h, i] is dc/dA_h[class, i]: Grad-ECLIP, last-layer
    Chefer and head decomposition are settings of one formula. Products are accumulated in float32. A NaN among the
    inputs of a patch stays a NaN of its map.

    Args:
        gradient: g, [B, P, K, D]: B images, P prompts, K blocks, D channels with the heads concatenated; B, P, K may
            be 0.
        values: V, [B, K, T, D]; T = N + 1 tokens with the class token first, or N where options.class_token is False.
        heads: H, a divisor of D.
        options: p, phi, phi_out, scale; or the name of a preset.
        attention: A, [B, K, H, T], of the class token; needed where p = 1 and refused where p = 0.
        head_weights: w, [H], [K, H] for weights of every block, or [B, P, K, H] for those that ``head_scores`` chose;
            1 where absent.
        patch_weights: lambda, [B, K, N]; 1 where absent.
        backend: "reference" takes and returns NumPy arrays; "triton" contiguous torch tensors of fp32, fp16 or bf16,
            all on one device, and stays there without waiting for it. None is "reference".

    Returns:
        Maps [B, P, K, N] of the inputs' kind, float32 (float64 where the reference gets float64), not normalised.

    Raises:
        KernelError: a backend that cannot run, arrays of another kind, shape, dtype, device or layout.
    """
    chosen = resolve(backend)
    setting = RelevanceOptions.preset(options) if isinstance(options, str) else options
    named: dict[str, Any] = {
        "gradient": gradient,
        "values": values,
        "attention": attention,
        "head_weights": head_weights,
        "patch_weights": patch_weights,
    }
    named = {name: entry for name, entry in named.items() if entry is not None}
    check_kind(named, chosen)
    _check_shapes(named, heads, setting)
    if chosen == "reference":
        return relevance_reference(**named, heads=heads, options=setting)  # type: ignore[return-value]
    from eyeshine_kernels.relevance.kernel import launch

    return launch(**named, heads=heads, options=setting)  # type: ignore[return-value]


def _check_shapes(named: dict[str, Any], heads: int, options: RelevanceOptions) -> None:
    shapes = {name: tuple(entry.shape) for name, entry in named.items()}
    gradient, values = shapes["gradient"], shapes["values"]
    if len(gradient) != 4 or len(values) != 4:
        raise KernelError(f"got gradient {gradient} and values {values}, allowed [B, P, K, D] and [B, K, T, D]")
    images, prompts, blocks, width = gradient
    tokens = values[2]
    if values != (images, blocks, tokens, width):
        raise KernelError(f"values: got {values}, gradient {gradient} allows [{images}, {blocks}, T, {width}]")
    if tokens < options.first_patch:
        raise KernelError("values: got no token, allowed at least the class token; or class_token=False")
    if heads < 1 or width % heads:
        raise KernelError(f"heads: got {heads}, allowed a divisor of the {width} channels")
    if (options.attention_power == 1) != ("attention" in named):
        needed = "needed" if options.attention_power else "refused"
        raise KernelError(f"attention: {needed} where attention_power is {options.attention_power}")
    allowed: dict[str, tuple[tuple[int, ...], ...]] = {
        "attention": ((images, blocks, heads, tokens),),
        "head_weights": ((heads,), (blocks, heads), (images, prompts, blocks, heads)),
        "patch_weights": ((images, blocks, tokens - options.first_patch),),
    }
    for name, choices in allowed.items():
        if name in shapes and shapes[name] not in choices:
            raise KernelError(f"{name}: got {shapes[name]}, allowed {' or '.join(map(str, choices))}")
