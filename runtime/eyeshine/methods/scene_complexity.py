"""How many different things a scene holds, as its patches' features tell, and which of MMEL's scales that leaves.

The paper names "adaptive scale selection based on scene complexity" as future work (section 4.7) and no measure: both
the measure and the rule are ours.
"""

from __future__ import annotations

import math
from typing import Any, Final

from eyeshine_kernels.multiscale import MultiscaleOptions
from eyeshine_kernels.products import matmul

__all__ = ["CELLS_EACH", "chosen_scales", "scene_complexity"]

CELLS_EACH: Final = 7
"""Cells that a scale must have for each thing in the scene: with 14 x 14 patches, scale .5 is left out above 7. On the
embedded model, road scenes of 2 to 10 objects come out at 4.6 to 8.7 (median 6.0), cluttered ones of 11 to 18 at 6.2 to
10.2 (8.3); 30 of each.
The paper finds its maps overwhelmed by more than ten objects."""

_LEAST_LENGTH: Final = 1e-12


def scene_complexity(features: Any) -> list[float]:
    """``1 / mean_ij cos(f_i, f_j)^2`` of each image: how many directions its patches' features are spread over.

    The participation ratio of the eigenvalues of their cosine matrix, features centred over the patches; 1 where all
    lie on one line, n for n equal groups at right angles. Of the last block.

    Args:
        features: [B, K, N, D], a NumPy array or a torch tensor.

    Returns:
        B numbers in 1..N; 1 where all features are equal.
    """
    centred = features[:, -1] - features[:, -1].mean(1)[:, None]
    unit = centred / ((centred * centred).sum(-1)[..., None] ** 0.5).clip(_LEAST_LENGTH)
    cosines = matmul(unit, unit.swapaxes(1, 2))
    squares = (cosines * cosines).mean(2).mean(1)
    return [1 / max(float(square), 1 / features.shape[2]) if square > 0 else 1.0 for square in squares]


def chosen_scales(features: Any, scales: tuple[float, ...], grid: tuple[int, int]) -> list[tuple[float, ...]]:
    """The scales whose grids have ``CELLS_EACH`` cells for each thing in the scene, image by image; the finest always.

    A coarse cell that holds several things has the features of none of them.

    Args:
        features: [B, K, N, D].
        scales: to choose from.
        grid: rows and columns of patches.
    """
    cells = [math.prod(size) for size in MultiscaleOptions(scales=scales).cells(grid)]
    return [
        tuple(scale for scale, count in zip(scales, cells, strict=True) if count >= min(CELLS_EACH * each, max(cells)))
        for each in scene_complexity(features)
    ]
