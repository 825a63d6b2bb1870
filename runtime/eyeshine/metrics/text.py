"""Confidence Drop and Increase of the text side: the cosine when a text's low-relevance tokens are taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice
from eyeshine.errors import OptionError
from eyeshine.metrics.base import Direction, Score, View

__all__ = ["TextCase", "TextConfidenceDrop", "TextConfidenceIncrease", "TextMode"]

Ids = NDArray[np.int64]
TextMode = Literal["m2ib", "keep-eot"]
"""What becomes of the texts. "m2ib", as released: start and end are taken off both, and a token that is not kept
becomes id 0 in its place; without an end token the pooled position is what the graph makes of it, and can move.
"keep-eot": start and end stay."""
Dropped = Literal["remove", "pad"]

_M2IB = "Wang, Rudner, Wilson, Visual Explanations of Image-Text Representations via M2IB, NeurIPS 2023"


@dataclass(frozen=True, eq=False, kw_only=True)
class TextCase:
    """One text, one image, and the relevance of the text's tokens.

    Attributes:
        ids: [N], the tokens without start and end, N >= 1.
        relevance: [N].
        image: [E], the image's unit vector.
        encode: token ids [n, L] to unit vectors [n, E].
        start, end, pad: ids of the tokenizer; start is None where it puts nothing before a text.
    """

    ids: Ids
    relevance: NDArray[np.floating]
    image: NDArray[np.float32]
    encode: Callable[[Ids], NDArray[np.float32]]
    start: int | None
    end: int
    pad: int
    _known: dict[tuple[int, ...], float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or not self.ids.size or self.ids.shape != self.relevance.shape:
            got = f"{list(self.ids.shape)} ids, {list(self.relevance.shape)} values"
            raise OptionError("a relevance for each token of a text", got=got, allowed="[N] and [N], N from 1 on")

    def cosine(self, ids: Ids) -> float:
        """Of the image and a text [L] of token ids; each text is encoded once."""
        key = tuple(ids.tolist())
        if key not in self._known:
            self._known[key] = float(self.encode(ids[None])[0].astype(np.float64) @ self.image)
        return self._known[key]


@dataclass(frozen=True)
class _TextConfidence:
    mode: TextMode = "m2ib"
    dropped: Dropped = "remove"
    percentile: float = 50.0

    reference: ClassVar[str] = _M2IB
    needs: ClassVar[frozenset[str]] = frozenset()
    views: ClassVar[tuple[View, ...]] = ()

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, get_args(TextMode))
        check_choice("dropped", self.dropped, get_args(Dropped))
        if not 0 <= self.percentile < 100:
            raise OptionError("not a percentile", got=self.percentile, allowed="0..100, 100 excluded")

    def change(self, case: TextCase) -> float:
        """The cosine of the kept tokens less that of all."""
        kept = case.relevance > np.percentile(case.relevance, self.percentile)
        if self.mode == "m2ib":
            return case.cosine(np.where(kept, case.ids, 0)) - case.cosine(case.ids)
        inner = case.ids[kept] if self.dropped == "remove" else np.where(kept, case.ids, case.pad)
        start = [] if case.start is None else [case.start]
        framed = (np.concatenate([start, ids, [case.end]]).astype(np.int64) for ids in (inner, case.ids))
        after, before = map(case.cosine, framed)
        return after - before


@dataclass(frozen=True)
class TextConfidenceDrop(_TextConfidence):
    """What the cosine loses when the less relevant half of the tokens is taken away, ``max(0, S - S')``.

    Attributes:
        mode: see ``TextMode``.
        dropped: of "keep-eot": leave tokens out, or put the padding in their place.
        percentile: tokens above it, among the text's own, are kept: of 50 about half. Where all are equal, none is.
    """

    name: ClassVar[str] = "text_confidence_drop"
    direction: ClassVar[Direction] = "lower"
    unit: ClassVar[str] = "cosine"

    def read_text(self, case: TextCase) -> Score:
        """The score of a text."""
        return Score(max(0.0, -self.change(case)))


@dataclass(frozen=True)
class TextConfidenceIncrease(_TextConfidence):
    """1 where the cosine is larger without the less relevant half of the tokens, else 0.

    Attributes:
        mode: see ``TextMode``.
        dropped: of "keep-eot": leave tokens out, or put the padding in their place.
        percentile: tokens above it, among the text's own, are kept: of 50 about half. Where all are equal, none is.
    """

    name: ClassVar[str] = "text_confidence_increase"
    direction: ClassVar[Direction] = "higher"
    unit: ClassVar[str] = "0 or 1"

    def read_text(self, case: TextCase) -> Score:
        """The score of a text."""
        return Score(float(self.change(case) > 0))
