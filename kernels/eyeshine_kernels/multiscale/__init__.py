"""Semantic enhancement of a map along relations between patches at several scales (MMEL), in two forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import Backend, KernelError, check_kind, resolve
from eyeshine_kernels.multiscale.contrast import enhance_contrast
from eyeshine_kernels.multiscale.options import MLP, Form, MultiscaleOptions, SemanticMaps
from eyeshine_kernels.multiscale.reference import literal_reference, resolution_reference

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MLP", "Form", "MultiscaleOptions", "SemanticMaps", "enhance_contrast", "multiscale"]

Array = NDArray[np.floating[Any]]
T = TypeVar("T", bound="Array | Tensor")

_DEFAULT: Final = MultiscaleOptions()


def multiscale(
    queries: T,
    base: T,
    *,
    grid: tuple[int, int],
    layer_weights: T | None = None,
    mlp: MLP[T] | None = None,
    options: MultiscaleOptions = _DEFAULT,
    backend: Backend | None = None,
) -> SemanticMaps[T]:
    """Return maps multiplied by a gate: patches that relate to relevant patches rise.

    Form "resolution": at each scale s the grid of queries, less their mean, is resized to ``ceil(s h) x ceil(s w)``
    and normalised, ``R = softmax(f f^T / temperature)``, ``r = R resize(E_base / sum E_base)`` goes back to h x w and
    is z-scored; ``S = sum_l w_l mean_s z(r)``, ``w = softplus(theta) / sum softplus(theta)``, and
    ``E = E_base [1 + alpha sigmoid(beta S)] + rho alpha max(E_base) minmax(S)``.
    Down is adaptive average pooling over whole patches (torch's mode "area"), up is bilinear, align_corners=False.
    Form "literal": ``E = E_base [1 + alpha sigmoid(S)]`` with eq. 1 to 9 as printed, which ranks as E_base does.

    Guards: an all-zero base map gives an all-zero map; z is 0 where r deviates by at most 1 % of its mean; queries that
    are equal relate equally. A NaN in a query reaches all maps of its image, one in a base map all of its row.

    Source: MMEL, eq. 1 to 9 and section 3.4; "resolution" is our reading of its text.

    Args:
        queries: [B, K, N, D], of patches only, heads concatenated: B images, K >= 1 blocks, D >= 1; B may be 0.
        base: E_base, [B, P, N], evidence of P prompts (0 or more) that is not negative, as Grad-ECLIP's, any unit.
        grid: rows and columns of patches, h * w = N, row by row.
        layer_weights: theta, [K], any sign; all equal (1, the paper's value) where absent.
        mlp: T of the literal form, the identity where absent; refused by "resolution", which has no learned part.
        options: form, scales, strengths.
        backend: "reference" takes and returns NumPy arrays; "triton" contiguous torch tensors of fp32, fp16 or bf16,
            all on one device, and stays there without waiting for it. None is "reference".

    Returns:
        Enhanced maps and S, [B, P, N] each, float32 (float64 where the reference gets float64).

    Raises:
        KernelError: a backend that cannot run, arrays of another kind, shape, dtype, device or layout, or, on "triton",
            more than 65536 patches, or 8192 channels in the literal form.
    """
    chosen = resolve(backend)
    named: dict[str, Any] = {"queries": queries, "base": base}
    if layer_weights is not None:
        named["layer_weights"] = layer_weights
    if mlp is not None:
        named |= {f"mlp.{name}": entry for name, entry in mlp.named().items()}
    check_kind(named, chosen)
    _check_shapes({name: tuple(entry.shape) for name, entry in named.items()}, grid)
    if mlp is not None and options.form != "literal":
        raise KernelError("mlp: refused by form 'resolution', which has no learned part; take form 'literal'")
    shared: dict[str, Any] = {"layer_weights": layer_weights, "options": options}
    if options.form == "resolution":
        shared["grid"] = grid
    else:
        shared["mlp"] = mlp
    if chosen == "reference":
        run: Any = resolution_reference if options.form == "resolution" else literal_reference
    else:
        from eyeshine_kernels.multiscale.launch import launch_literal, launch_resolution

        run = launch_resolution if options.form == "resolution" else launch_literal
    result: SemanticMaps[T] = run(queries, base, **shared)
    return result


def _check_shapes(shapes: dict[str, tuple[int, ...]], grid: tuple[int, int]) -> None:
    queries, base = shapes["queries"], shapes["base"]
    if len(queries) != 4 or len(base) != 3:
        raise KernelError(f"got queries {queries} and base {base}, allowed [B, K, N, D] and [B, P, N]")
    images, blocks, patches, channels = queries
    if not blocks or not channels:
        raise KernelError(f"queries: got {queries}, allowed at least 1 block and 1 channel")
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != patches:
        raise KernelError(f"grid: got {grid}, allowed rows and columns, from 1, with a product of {patches} patches")
    if base != (images, base[1], patches):
        raise KernelError(f"base: got {base}, queries {queries} allow [{images}, P, {patches}]")
    hidden = shapes["mlp.first"][0] if shapes.get("mlp.first") else 0
    fitting = {
        "layer_weights": (blocks,),
        "mlp.first": (hidden, channels),
        "mlp.second": (channels, hidden),
        "mlp.first_bias": (hidden,),
        "mlp.second_bias": (channels,),
        "mlp.gain": (channels,),
        "mlp.shift": (channels,),
    }
    for name, shape in fitting.items():
        if name in shapes and shapes[name] != shape:
            raise KernelError(f"{name}: got {shapes[name]}, allowed {shape}")
