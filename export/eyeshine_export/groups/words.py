"""The text side: the signals of the text tower's last blocks, for relevance per token of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.words import words_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.words_reference import words_reference
from eyeshine_export.oracle import Oracle

__all__ = ["WORDS"]

_LAYERS: Final = 8  # what Grad-ECLIP's authors explain of the 12 blocks of a text tower


def _build(parts: Parts) -> dict[str, Built]:
    depth = parts.config.text.layers
    layers = min(max(_LAYERS, parts.layers), depth)
    graph = words_graph(parts.config, parts.text, layers, parts.form)
    return {"words": Built(graph, layers, tuple(range(depth - layers, depth)))}


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    tokens, images = inputs["tokens"], len(inputs["pixels"])
    image = np.random.default_rng(2).standard_normal((images, oracle.source.config.embed_dim), dtype=np.float32)
    expected = words_reference(
        oracle.state, oracle.source.config, tokens, oracle.tensor(image), len(built["words"].blocks)
    )
    yield Case(("words",), f"B={images}, P={len(tokens)}", {"tokens": tokens, "image": image}, expected)


WORDS: Final = Group("words", "the signals of the text tower's last 8 blocks (or --layers, if more)", _build, _cases)
