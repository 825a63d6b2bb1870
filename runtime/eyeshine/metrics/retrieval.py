"""Retrieval while words of the captions are deleted or shown: our reconstruction of MMEL's table 3.

The papers name the columns (IR, TR; deletion, insertion; Karpathy's split) and release no code. Here words are deleted
from every caption by falling relevance, the caption is encoded anew, and recall at rank 1 is taken over the whole data
set: IR from a caption to its image, TR from an image to any of its captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice, check_whole
from eyeshine.metrics.base import Direction, View
from eyeshine_kernels.products import matmul

__all__ = ["Recall", "edited", "hits", "prepare_caption"]

Array = NDArray[np.float64]
_STRIPPED = str.maketrans("", "", '.!"()*#:;~')
_MOST_WORDS = 50
_IMAGES = 256  # of one product with all captions: 5,000 images and 25,000 captions would be 500 MB at once


@dataclass(frozen=True)
class Recall:
    """Recall at rank 1, averaged over the shares of words that are deleted or shown.

    Attributes:
        of: "images" (IR, one value per caption) or "texts" (TR, one value per image).
        insert: show the most relevant words on an empty caption, rather than delete them.
        points: of the curve, beside its beginning; at each the number of words is rounded.
        seed: of the order of equally relevant words.
    """

    of: Literal["images", "texts"] = "images"
    insert: bool = False
    points: int = 10
    seed: int = 0

    name: ClassVar[str] = "recall"
    unit: ClassVar[str] = "recall at rank 1"
    reference: ClassVar[str] = "MMEL, table 3; our reconstruction, no code is released"
    needs: ClassVar[frozenset[str]] = frozenset()
    views: ClassVar[tuple[View, ...]] = ()

    def __post_init__(self) -> None:
        check_choice("of", self.of, ("images", "texts"))
        check_whole("points", self.points, 1, 100)
        check_whole("seed", self.seed, 0, 2**32)

    @property
    def direction(self) -> Direction:
        return "higher" if self.insert else "lower"

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the words that are deleted, or shown, at each point."""
        return tuple(k / self.points for k in range(self.points + 1))


def prepare_caption(caption: str) -> str:
    """A caption as Grad-ECLIP's text notebook takes it: lower case, without ``.!"()*#:;~``, at most 50 words."""
    return " ".join(caption.lower().translate(_STRIPPED).split()[:_MOST_WORDS])


def edited(words: Sequence[str], relevance: Sequence[float], share: float, *, insert: bool, seed: int = 0) -> str:
    """A caption whose most relevant words are left out, or are all that is left, in their own order.

    Args:
        words: W of them.
        relevance: W values; equal ones come in an order drawn from ``seed``.
        share: 0..1, of the words; rounded to whole ones.
        insert: keep those words, rather than the others.
        seed: of ties.
    """
    draw = np.random.default_rng(seed).permutation(len(words))
    order = draw[np.argsort(-np.asarray(relevance, np.float64)[draw], kind="stable")]
    top = set(order[: round(share * len(words))].tolist())
    return " ".join(word for k, word in enumerate(words) if (k in top) == insert)


def hits(
    captions: Sequence[str],
    owners: NDArray[np.intp],
    images: NDArray[np.float32],
    encode: Callable[[list[str]], NDArray[np.float32]],
) -> tuple[Array, Array]:
    """Whether each caption finds its image first, and each image one of its captions.

    Of equally similar ones a random choice is expected: captions that have become the same word, or nothing at all, are
    encoded once, so that they are equal to the bit, and cannot all be found first.

    Args:
        captions: C texts; they may be equal, or empty.
        owners: [C], the image of each.
        images: unit vectors [I, E].
        encode: texts to unit vectors.

    Returns:
        Float64 [C] and [I], in 0..1.
    """
    unique, place = np.unique(np.array(captions, dtype=np.str_), return_inverse=True)
    vectors = encode([str(text) for text in unique])
    of_images, of_texts = np.zeros(len(captions)), np.zeros(len(images))
    counts = np.bincount(place, minlength=len(unique))
    best, ties = np.full(len(unique), -np.inf), np.zeros(len(unique))
    own = np.empty(len(captions))  # of a caption with its image
    for start in range(0, len(images), _IMAGES):
        cosines = matmul(images[start : start + _IMAGES], vectors.T)
        here = (owners >= start) & (owners < start + len(cosines))
        own[here] = cosines[owners[here] - start, place[here]]
        top = cosines.max(axis=0)
        equal = (cosines == top).sum(axis=0)
        ties = np.where(top > best, equal, np.where(top == best, ties + equal, ties))
        best = np.maximum(best, top)
        first = cosines == cosines.max(axis=1, keepdims=True)
        found = np.zeros(len(cosines))
        np.add.at(found, owners[here] - start, first[owners[here] - start, place[here]])
        of_texts[start : start + len(cosines)] = found / (first @ counts)
    of_images[:] = np.where(own == best[place], 1 / ties[place], 0)
    return of_images, of_texts
