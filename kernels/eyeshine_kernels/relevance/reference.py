"""The definition of ``relevance``, in NumPy: plain and slow, every head's evidence is materialised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.products import matmul
from eyeshine_kernels.relevance.options import RelevanceOptions

__all__ = ["relevance_reference"]

Array = NDArray[np.floating]


def relevance_reference(
    gradient: Array,
    values: Array,
    *,
    heads: int,
    options: RelevanceOptions,
    attention: Array | None = None,
    head_weights: Array | None = None,
    patch_weights: Array | None = None,
) -> Array:
    """``out_i = phi_out(scale * sum_h w_h * phi(A_h[i]^p * <g_h, V_{h,i}>)) * lambda_i`` for each image, prompt, block.

    Shapes have been checked by the caller, ``eyeshine_kernels.relevance.relevance``, which describes them too.

    Args:
        gradient: g, [B, P, K, D], heads concatenated.
        values: V, [B, K, T, D]; T = N + 1 with a class token first, else N.
        heads: H.
        options: p, phi, phi_out, scale (1 or 1/H), whether there is a class token.
        attention: A, [B, K, H, T].
        head_weights: w, [H], [K, H] or [B, P, K, H].
        patch_weights: lambda, [B, K, N].

    Returns:
        [B, P, K, N], float32; float64 where the inputs are float64.
    """
    dtype = np.result_type(np.float32, gradient, values)
    images, prompts, blocks, width = gradient.shape
    depth = width // heads
    rows = gradient.astype(dtype, copy=False).reshape(images, prompts, blocks, heads, depth)
    per_head = rows.transpose(0, 2, 3, 1, 4)
    patches = values[:, :, options.first_patch :].astype(dtype, copy=False)
    columns = patches.reshape(images, blocks, patches.shape[2], heads, depth).transpose(0, 1, 3, 4, 2)
    evidence = matmul(per_head, columns)  # u, [B, K, H, P, N]
    if attention is not None:
        evidence = evidence * attention[:, :, :, None, options.first_patch :].astype(dtype, copy=False)
    if options.head_relu:
        evidence = np.maximum(evidence, 0)
    if head_weights is not None:
        weights = head_weights.astype(dtype, copy=False)
        # [B, P, K, H] to [B, K, H, P, 1]; [H] and [K, H] to [.., 1, 1].
        evidence = evidence * (
            weights.transpose(0, 2, 3, 1)[..., None] if weights.ndim == 4 else weights[..., None, None]
        )
    total = evidence.sum(axis=2) * dtype.type(options.scale(heads))
    if not options.signed:
        total = np.maximum(total, 0)
    if patch_weights is not None:
        total = total * patch_weights[:, :, None].astype(dtype, copy=False)
    return np.ascontiguousarray(total.transpose(0, 2, 1, 3))
