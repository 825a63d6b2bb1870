"""The tokens before the last blocks, and the tower from there on: for methods that change them and look again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.tails import hidden_graph, tail_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.hidden_reference import hidden_reference, tail_reference
from eyeshine_export.oracle import Oracle

__all__ = ["HIDDEN"]

_KEPT = 6
"""Blocks whose inputs are kept, where ``--layers`` does not ask for more."""
_TAILS = 3
"""Blocks of the longest tail, what NIB runs; M2IB runs two."""


def _build(parts: Parts) -> dict[str, Built]:
    depth = parts.config.vision.layers
    kept = min(depth, max(_KEPT, parts.layers))
    hidden = hidden_graph(parts.config, parts.vision, kept, parts.form)
    # Nothing is explained, but its tokens leave the engine: what asks for less should run "image".
    graphs = {"hidden": Built(hidden, 2, tuple(range(depth - kept, depth)))}
    for count in range(1, min(depth, _TAILS) + 1):
        graphs[f"tail_{count}"] = Built(tail_graph(parts.config, parts.vision, count, parts.form), count)
    return graphs


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    shape = f"B={len(pixels)}, P={len(text)}"
    found = hidden_reference(oracle, pixels, text, len(built["hidden"].blocks))
    yield Case(("hidden",), shape, {"pixels": pixels, "text": text}, found)
    tails = [name for name in built if name != "hidden"]
    # One state for all tails: real tokens, those before the longest, with noise as M2IB gives it.
    random = np.random.default_rng(len(pixels))
    real = found["hidden"][:, -len(tails)].astype(np.float32)
    state = real + random.standard_normal(real.shape, np.float32)
    for count, name in enumerate(tails, 1):
        yield Case((name,), shape, {"state": state, "text": text}, tail_reference(oracle, state, text, count))


HIDDEN: Final = Group(
    "hidden", "the tokens before the last blocks, and graphs that go on from them", _build, _cases
)  # fmt: skip
