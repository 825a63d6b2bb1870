"""What an attribution method is: signals of one block in, a map over the patches out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockSignals", "Method", "cosine_weights"]

Array = NDArray[np.float32]

# Cosines of equal keys differ by float32 rounding, up to 4e-7; a min-max of that would be a map of pure noise.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class BlockSignals:
    """The signals of one explained block; a field is None where the method did not ask for it.

    Attributes:
        class_query: [B, D].
        keys, values: [B, T, D], token 0 is the class token.
        class_attention: [B, H, T].
        gradient: [B, P, D], of the target, heads concatenated.
    """

    class_query: Array | None = None
    keys: Array | None = None
    values: Array | None = None
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


def cosine_weights(query: Array, keys: Array) -> Array:
    """Grad-ECLIP's spatial weights: cos(q_class, k_i), min-max over the patches of an image.

    Args:
        query: [B, D].
        keys: [B, N, D], patches only.

    Returns:
        [B, N] in 0..1; all zeros where the cosines are constant (the released code divides by zero there).
    """
    dots = np.einsum("bd,bnd->bn", query, keys)
    lengths = np.sqrt(np.einsum("bnd,bnd->bn", keys, keys))
    lengths *= np.linalg.norm(query, axis=-1, keepdims=True)
    cosine = dots / np.maximum(lengths, 1e-12)
    low = cosine.min(axis=-1, keepdims=True)
    spread = cosine.max(axis=-1, keepdims=True) - low
    weights: Array = np.divide(cosine - low, spread, out=np.zeros_like(cosine), where=spread > _CONSTANT)
    return weights
