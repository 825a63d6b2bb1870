"""One side of a dual request, the prompt or the answer: its concepts, their maps, and how present they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eyeshine.dual.comparison import Shape, compare, shape_of
from eyeshine.dual.concepts import Concept
from eyeshine.dual.verdict import Signals
from eyeshine_kernels.products import matmul

__all__ = ["Side", "presence", "read_signals"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Side:
    """A prompt or an answer with N concepts.

    Attributes:
        text: as it was given.
        concepts: those that the model knows.
        unknown: phrases with words that the model never saw; they count for nothing.
        maps: float32 [N, h, w], the method's own values, those below 0 as 0.
        presence: float32 [N], log odds of each concept.
        vectors: unit vectors [N, E].
        tau: share of a map's largest value from which a patch counts as hot.
    """

    text: str
    concepts: tuple[Concept, ...]
    unknown: tuple[str, ...]
    maps: Array
    presence: Array
    vectors: Array
    tau: float

    @property
    def map(self) -> Array:
        """[h, w]: the mean of the concepts' maps, each divided by its largest value; zeros without concepts."""
        peaks = self.maps.max(axis=(1, 2), keepdims=True)
        scaled = np.divide(self.maps, peaks, out=np.zeros_like(self.maps), where=peaks > 0)
        return scaled.mean(axis=0) if len(scaled) else np.zeros(self.maps.shape[1:], np.float32)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of each concept's map."""
        return tuple(shape_of(values, self.tau) for values in self.maps)


def presence(similarities: Array, candidates: Array, logit_scale: float) -> Array:
    """Log odds that texts are true of an image, against what is not in it.

    ``s (cos - mean of the lower half of the candidates' cosines)``: of a list of things that may be there, most of the
    less similar half are not, so that their mean is what this image gives to an absent text.

    Args:
        similarities: cosines [N] of the texts.
        candidates: cosines [C] of the list, C at least 2.
        logit_scale: s, of the model.
    """
    absent = np.sort(candidates)[: len(candidates) // 2].mean()
    return np.asarray(logit_scale * (similarities - absent), np.float32)


def read_signals(asked: Side, said: Side, image: float, blind: Array | None) -> Signals:
    """What the verdict is read from.

    Args:
        asked, said: prompt and answer.
        image: log odds of the most present candidate.
        blind: unit vectors [M, E] of the concepts of what was answered without the image; None if nobody was asked.
    """
    best = max(said.shapes, key=lambda shape: shape.largest, default=None)
    return Signals(
        named=bool(asked.concepts),
        scenery=bool(asked.concepts) and all(concept.scenery for concept in asked.concepts),
        plural=any(concept.plural for concept in asked.concepts),
        prompt_presence=float(asked.presence.max()) if asked.concepts else None,
        answer_presence=float(said.presence.min()) if said.concepts else None,
        rival_presence=_rival(asked, said),
        image=image,
        text_similarity=_highest(matmul(asked.vectors, said.vectors.T)),
        blind_similarity=_guessed_again(said, blind),
        map_similarity=_map_similarity(asked, said),
        prompt_second=asked.shapes[0].second if len(asked.concepts) == 1 else None,
        answer_focus=best.focus if best else None,
        answer_largest=best.largest if best else None,
    )


def _highest(cosines: Array) -> float | None:
    return float(cosines.max()) if cosines.size else None


def _guessed_again(said: Side, blind: Array | None) -> float | None:
    """How like the blind answer the answer is in the concept that is least like it: one that is new was seen."""
    if blind is None or not len(blind) or not said.concepts:
        return None
    return float(matmul(said.vectors, blind.T).max(axis=1).min())


def _map_similarity(asked: Side, said: Side) -> float | None:
    """The highest correlation of a prompt's map and an answer's; a map without contrast is like none: 0."""
    pairs = [compare(a, b, asked.tau).pearson for a in asked.maps for b in said.maps]
    return max((0.0 if value is None else value for value in pairs), default=None)


def _rival(asked: Side, said: Side) -> float | None:
    """Log odds of the most present concept that the prompt offered and the answer did not take."""
    if not said.concepts:
        return None
    taken = set(matmul(asked.vectors, said.vectors.T).argmax(axis=0).tolist()) if asked.concepts else set()
    left = [float(value) for index, value in enumerate(asked.presence) if index not in taken]
    return max(left, default=None)
