"""What an attribution method is: signals of one block in, a map over the patches out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockSignals", "Method"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class BlockSignals:
    """The signals of one explained block; a field is None where the method did not ask for it.

    Attributes:
        class_query: [B, D].
        keys, values: [B, T, D], token 0 is the class token.
        spatial_weights: [B, N] in 0..1.
        class_attention: [B, H, T].
        gradient: [B, P, D], of the target, heads concatenated.
    """

    class_query: Array | None = None
    keys: Array | None = None
    values: Array | None = None
    spatial_weights: Array | None = None
    class_attention: Array | None = None
    gradient: Array | None = None


class Method(Protocol):
    """One attribution method.

    Attributes:
        name: in the registry, in results and on the command line.
        signals: names of the signals it reads; the runtime runs the cheapest graph that has them.
        uses_text: whether its map depends on the text.
        cost: "graph" (nothing beyond the graph) or "patches" (arithmetic over patches).
        reference: paper or code it comes from.
    """

    name: ClassVar[str]
    signals: ClassVar[frozenset[str]]
    uses_text: ClassVar[bool]
    cost: ClassVar[str]
    reference: ClassVar[str]

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Return maps [B, P, N] for ``prompts`` prompts, the method's own values, finite."""
        ...


def need(array: Array | None, name: str) -> Array:
    """Return a signal that the method declared; its absence is a defect of the caller."""
    if array is None:
        raise TypeError(f"signal {name} was not handed to the method")
    return array
