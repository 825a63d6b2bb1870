"""Which heads a map was made of, with their scores, for results and the head grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.concept.options import ConceptOptions
from eyeshine_kernels.head_scores import HeadScores

__all__ = ["HeadSelection"]


@dataclass(frozen=True, eq=False)
class HeadSelection:
    """Heads that were chosen for each image and text.

    Attributes:
        blocks: K', how many of the last blocks had candidates.
        heads: H.
        depth: blocks of the tower.
        indices: int64 [B, P, k], k' * H + h in the order of choice: head h of block k' of those.
        scores: float32 [B, P, k], HeadScore (eq. 1) at the moment of choice.
        relevance: float32 [B, P, K', H], TextRelevance (eq. 2): the head's share of the cosine but for a factor that is
            the same for all heads of an image.
        standardised: float32 [B, P, K', H], z-scores of it, which eq. 1 weighs.
    """

    blocks: int
    heads: int
    depth: int
    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    relevance: NDArray[np.float32]
    standardised: NDArray[np.float32]

    @classmethod
    def of(cls, scores: HeadScores[Any], options: ConceptOptions, depth: int) -> HeadSelection:
        """From the kernel's result, brought to the host."""

        def host(array: Any) -> Any:
            return array if isinstance(array, np.ndarray) else array.cpu().numpy()

        heads = scores.weights.shape[3]
        fields = (scores.indices, scores.scores, scores.relevance, scores.standardised)
        return cls(options.explained_blocks, heads, depth, *(host(entry) for entry in fields))

    def chosen(self, image: int, prompt: int) -> list[dict[str, Any]]:
        """The heads of one map as records: block (counted in the tower, from 0), head, score, relevance."""
        rows = []
        for index, score in zip(self.indices[image, prompt], self.scores[image, prompt], strict=True):
            block, head = divmod(int(index), self.heads)
            relevance = float(self.relevance[image, prompt, block, head])
            rows.append(
                {"block": self.depth - self.blocks + block, "head": head, "score": float(score), "relevance": relevance}
            )
        return rows
