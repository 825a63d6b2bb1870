"""Contrast enhancement for display: clip at percentiles, then min-max. In NumPy; no kernel needs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.multiscale.options import TINY

__all__ = ["enhance_contrast"]


def enhance_contrast(
    maps: NDArray[np.floating[Any]], *, low_percent: float = 1.0, high_percent: float = 99.0
) -> NDArray[np.floating[Any]]:
    """Clip each row at two of its percentiles (linear between ranks) and stretch it to 0..1; a constant row is 0.

    For display only: clipping makes ties, so metrics that rank patches take the map as it was. Source: MMEL names a
    contrast enhancement (section 3.4) and prints no formula; this is our reading.

    Args:
        maps: [..., N], floats, N at least 1, any unit.
        low_percent: 0..100, below ``high_percent``.
        high_percent: 0..100.

    Returns:
        [..., N] in 0..1 and the dtype of ``maps``; a row with a NaN is all NaN.

    Raises:
        KernelError: no array of floats, an empty row, or percentiles that are out of order or range.
    """
    if not isinstance(maps, np.ndarray) or maps.dtype.kind != "f" or not maps.ndim or not maps.shape[-1]:
        got = f"{maps.dtype} {maps.shape}" if isinstance(maps, np.ndarray) else type(maps).__name__
        raise KernelError(f"maps: got {got}, allowed a NumPy array of floats, [..., N] with N at least 1")
    if not 0 <= low_percent < high_percent <= 100:
        raise KernelError(f"percentiles: got {low_percent!r} and {high_percent!r}, allowed 0 <= low < high <= 100")
    if not maps.size:
        return maps.copy()
    # float16 would neither hold TINY nor interpolate between ranks well.
    values = maps.astype(np.result_type(maps, np.float32))
    low, high = np.percentile(values, (low_percent, high_percent), axis=-1, keepdims=True)
    stretched: NDArray[np.floating[Any]] = (np.clip(values, low, high) - low) / (high - low + TINY)
    return stretched.astype(maps.dtype)
