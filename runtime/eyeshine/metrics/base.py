"""What a metric is: which views of the masked image it needs, and how it reads their embeddings.

A *view* says which images to encode for a map, a *metric* what their embeddings mean. Metrics that need the same view
share its images, and all views of a request share their batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice
from eyeshine.metrics.case import Case

__all__ = ["Direction", "Metric", "Score", "Vectors", "View", "check_choice"]

Array = NDArray[np.float32]
Direction = Literal["higher", "lower"]
"""Which values are better."""


class View(Protocol):
    """Images to encode for one map: a hashable dataclass, equal where its images are.

    Attributes:
        uses_map: whether its images depend on the map; those that do not are encoded once per image.
        count: how many images.
    """

    uses_map: ClassVar[bool]

    @property
    def count(self) -> int: ...

    def frames(self, case: Case) -> Iterator[Array]:
        """``count`` images [3, Y, X], RGB in 0..1. A frame may be written over when the next is asked for."""
        ...


Vectors = Mapping[View, Array]
"""Unit embeddings [count, E] of every view that a metric asked for."""


@dataclass(frozen=True)
class Score:
    """One metric of one map.

    Attributes:
        value: the score; None where it is not defined, and then ``flags`` says why.
        band: what the paper calls such a value, where it names bands.
        curve: (share of the image that was changed, score) in 0..1 and the unit of the score; empty without a curve.
        flags: what to know before the value is read.
        parts: sums by name that a data set adds up before it divides, where its score is no mean of the values.
    """

    value: float | None
    band: str | None = None
    curve: tuple[tuple[float, float], ...] = ()
    flags: tuple[str, ...] = ()
    parts: tuple[tuple[str, float], ...] = ()


class Metric(Protocol):
    """One metric: a frozen dataclass of its options, which check themselves.

    Attributes:
        name: in the registry, in results and on the command line.
        direction: which values are better.
        reference: paper or code it comes from.
        unit: of the value.
        needs: beside image, text and map: "contrast" (a negative text), "labels" (a label set), "mask".
        views: what has to be encoded.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    reference: ClassVar[str]

    @property
    def unit(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def views(self) -> tuple[View, ...]: ...

    def read(self, case: Case, vectors: Vectors) -> Score:
        """The score of a map, from the embeddings of ``views``."""
        ...
