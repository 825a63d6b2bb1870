"""How like a patch is to the patches that the class token's query is like: similarities of both kinds combined."""

from __future__ import annotations

from typing import Any

import numpy as np

from eyeshine.signals import CONSTANT_COSINES
from eyeshine_kernels.products import matmul

__all__ = ["combined_weights"]

_LEAST_LENGTH = 1e-12


def combined_weights(weights: Any, keys: Any) -> Any:
    """``(lambda_i + minmax_i(sum_j lambda_j cos(k_i, k_j) / sum_j lambda_j)) / 2``, over the patches j of a block.

    The second term is the mean cosine of a patch with all patches, those weighed most whose keys are like the class
    token's query; ``sum_j lambda_j k_j / |k_j|`` is one vector, so that no matrix of patches is made. It is 0 where it
    is the same for all patches, as lambda is. Like lambda it does not depend on the text.

    Source: ours. MMEL, section 3.5, "combines class-token and patch-token similarities" and prints no formula.

    Args:
        weights: lambda, [B, K, N] in 0..1.
        keys: [B, K, 1 + N, D], the class token first; a NumPy array or a torch tensor, as ``weights``.

    Returns:
        [B, K, N] in 0..1, of the same kind.
    """
    patches = keys[:, :, 1:]
    unit = patches / ((patches * patches).sum(-1)[..., None] ** 0.5).clip(_LEAST_LENGTH)
    total = weights.sum(-1)[..., None].clip(_LEAST_LENGTH)
    likeness = matmul(unit, matmul(weights[..., None, :], unit).swapaxes(-1, -2))[..., 0] / total
    low, high = _ends(likeness)
    spread = high - low
    # Asked this way round a NaN stays one.
    flat = spread <= CONSTANT_COSINES
    return (weights + (likeness - low) * ~flat / (spread + flat)) / 2


def _ends(rows: Any) -> tuple[Any, Any]:
    """Smallest and largest of [..., N], [..., 1]."""
    if isinstance(rows, np.ndarray):
        return rows.min(-1, keepdims=True), rows.max(-1, keepdims=True)
    return rows.amin(-1, True), rows.amax(-1, True)
