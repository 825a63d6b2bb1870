"""What a method of the text side is given: the signals of the text tower, laid out as an image's.

A text stands where an image stands, its tokens where patches stand (one row of them), the start token where the class
token stands, and the images of the call where prompts stand. Methods that read one run's signals are then the same on
both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.methods.base import BlockSignals, Method
from eyeshine.signals import CONSTANT_COSINES

__all__ = ["READ", "TextMethod", "text_signals", "token_weights"]

Array = NDArray[np.float32]

READ: Final[Mapping[str, tuple[str, ...]]] = {
    "class_query": ("text_queries",),
    "queries": ("text_queries",),
    "keys": ("text_keys",),
    "values": ("text_values",),
    "class_attention": ("text_attention",),
    "gradient": ("text_gradient",),
    "spatial_weights": ("text_queries", "text_keys"),
}
"""A field of ``BlockSignals``: the signals of the text tower that it is made of."""


class TextMethod(Method, Protocol):
    """A method of the text side: a ``Method`` of such signals.

    ``blocks`` may be 0: as many of the last blocks as the bundle explains. A method with ``released`` reads texts that
    are padded to the whole context, and takes the minimum and maximum of lambda over all of it.
    """


def text_signals(
    outputs: Mapping[str, NDArray[Any]], fields: frozenset[str], tokens: int, *, whole: bool = False
) -> BlockSignals:  # fmt: skip
    """Signals of P texts of one length, ready for a method.

    Args:
        outputs: of the graph ``words``, of the blocks that the method reads.
        fields: of ``BlockSignals`` that it reads, keys of ``READ``.
        tokens: N of each text, start and end not counted.
        whole: take lambda's minimum and maximum over all places, and not up to the end token alone.

    Returns:
        Fields [P, K, 1 + N, ...] with the start token first, ``queries`` and ``spatial_weights`` [P, K, N, ...].
    """
    end = 1 + tokens
    made: dict[str, Callable[[], Any]] = {
        "class_query": lambda: outputs["text_queries"][:, :, end],
        "queries": lambda: outputs["text_queries"][:, :, 1:end],
        "keys": lambda: outputs["text_keys"][:, :, :end],
        "values": lambda: outputs["text_values"][:, :, :end],
        "class_attention": lambda: outputs["text_attention"][..., :end],
        "gradient": lambda: outputs["text_gradient"],
        "spatial_weights": lambda: token_weights(
            outputs["text_queries"][:, :, end], outputs["text_keys"], None if whole else end + 1
        )[:, :, 1:end],
    }
    read: dict[str, Any] = {field: made[field]() for field in fields}
    return BlockSignals(grid=(1, tokens), **read)


def token_weights(query: Array, keys: Array, places: int | None) -> Array:
    """Lambda of the text side: cos(query of the end token, key), min-max over the first ``places`` places, or all.

    The authors' code takes all 77, so that the padding behind the end, of which nothing depends, can set the minimum or
    the maximum; here it is start to end. Zero where the cosines differ by no more than ``CONSTANT_COSINES``.

    Args:
        query: [P, K, D].
        keys: [P, K, L, D].
        places: 1..L, or None for L.

    Returns:
        [P, K, L], 0..1 up to ``places``.
    """
    dots = np.einsum("pkd,pkld->pkl", query, keys)
    lengths = np.linalg.norm(keys, axis=3) * np.linalg.norm(query, axis=2)[..., None]
    cosines = dots / np.maximum(lengths, 1e-12)
    low, high = (reduce(cosines[..., :places], axis=2, keepdims=True) for reduce in (np.min, np.max))
    spread = high - low
    # Asked so, and not whether it is above, that a NaN stays one.
    weights: Array = np.where(spread <= CONSTANT_COSINES, 0, (cosines - low) / np.maximum(spread, CONSTANT_COSINES))
    return weights
