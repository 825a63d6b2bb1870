"""What each channel of a block's heads adds to the embedding: the constant that head selection projects by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.weights import AttentionWeights, BlockWeights, VisionWeights

__all__ = ["head_projection"]


def head_projection(weights: VisionWeights, blocks: int) -> NDArray[np.float32]:
    """M of the last ``blocks`` blocks, [K, D, E]: head outputs [D] times M is what they write into the joint space.

    The direct path of Gandelsman et al. (ICLR 2024): output projection (LayerScale folded), the mean that LN_post takes
    away, its scale, the projection. 1 / (sigma |e|) of an image and the biases' shares are left out: they are the
    same for all heads of a block, so z-scores over the heads of a block do not see them. Of a tower that is read by a
    pooler it is the pooler's alone; where the pooler's row is the embedding itself, nothing but its output projection.
    """
    scale, projection = weights.final_norm[0], weights.projection
    explained: Sequence[AttentionWeights] = (
        weights.blocks[-blocks:] if weights.pooler is None else (weights.pooler.block,)
    )
    if isinstance(explained[-1], BlockWeights) and weights.pooler is not None:
        return np.asarray(explained[-1].out[0].T[None], np.float32)
    result = np.empty((len(explained), *projection.shape), np.float32)
    for index, block in enumerate(explained):
        out = block.out[0]
        result[index] = (out - out.mean(axis=0)).T @ (scale[:, None] * projection)
    return result
