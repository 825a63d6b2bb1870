"""The tokens before the last blocks of both towers, and the towers from there on: for methods that change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.tails import hidden_graph, tail_graph, text_hidden_graph, text_tail_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.hidden_reference import (
    hidden_reference,
    tail_reference,
    text_hidden_reference,
    text_tail_reference,
)
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
    return graphs | _text_graphs(parts)


def _text_graphs(parts: Parts) -> dict[str, Built]:
    depth = parts.config.text.layers
    longest = min(depth, _TAILS)
    hidden = text_hidden_graph(parts.config, parts.text, longest, parts.form)
    graphs = {"text_hidden": Built(hidden, 0, tuple(range(depth - longest, depth)))}
    for count in range(1, longest + 1):
        graphs[f"text_tail_{count}"] = Built(text_tail_graph(parts.config, parts.text, count, parts.form), count)
    return graphs


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    shape = f"B={len(pixels)}, P={len(text)}"
    found = hidden_reference(oracle, pixels, text, len(built["hidden"].blocks))
    yield Case(("hidden",), shape, {"pixels": pixels, "text": text}, found)
    tails = [name for name in built if name.startswith("tail")]
    # One state for all tails: real tokens, those before the longest, with noise as M2IB gives it.
    random = np.random.default_rng(len(pixels))
    real = found["hidden"][:, -len(tails)].astype(np.float32)
    state = real + random.standard_normal(real.shape, np.float32)
    for count, name in enumerate(tails, 1):
        yield Case((name,), shape, {"state": state, "text": text}, tail_reference(oracle, state, text, count))
    yield from _text_cases(oracle, built, inputs["tokens"], len(pixels))


def _text_cases(
    oracle: Oracle, built: Mapping[str, Built], tokens: NDArray[np.generic], images: int
) -> Iterator[Case]:  # fmt: skip
    shape, blocks = f"B={images}, P={len(tokens)}", len(built["text_hidden"].blocks)
    found = text_hidden_reference(oracle, tokens, blocks)
    yield Case(("text_hidden",), shape, {"tokens": tokens}, found)
    real, random = found["text_hidden"][:, 0].astype(np.float32), np.random.default_rng(len(tokens))
    state = real + random.standard_normal(real.shape, np.float32)
    # The group "words" is checked with the same images: one name in the golden values stands for one array.
    image = np.random.default_rng(2).standard_normal((images, oracle.source.config.embed_dim), dtype=np.float32)
    for count in range(1, blocks + 1):
        expected = text_tail_reference(oracle, state, image, count)
        yield Case((f"text_tail_{count}",), shape, {"text_state": state, "image": image}, expected)


HIDDEN: Final = Group(
    "hidden", "the tokens before the last blocks, and graphs that go on from them", _build, _cases
)  # fmt: skip
