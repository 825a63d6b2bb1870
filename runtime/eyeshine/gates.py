"""Inputs of the graph "gates": everything as it is, until something is taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["GATES", "open_gates"]

GATES: Final = "gates"
"""The graph's name."""


def open_gates(inputs: Mapping[str, tuple[int | str, ...]], count: int) -> dict[str, NDArray[np.float32]]:
    """Gates for ``count`` images that change nothing: ones, and zeros for what stands in place of ablated heads.

    Args:
        inputs: of the graph, with their axes; the letter B stands for the images.
    """
    filled = {}
    for name, dims in inputs.items():
        if name != "pixels":
            shape = [count if isinstance(dim, str) else dim for dim in dims]
            filled[name] = np.full(shape, float(name.endswith("_gates")), np.float32)
    return filled
