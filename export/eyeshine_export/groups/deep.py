"""The signals of the last K blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.towers import explain_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.oracle import Oracle

__all__ = ["DEEP"]


def _build(parts: Parts) -> dict[str, Built]:
    depth, layers = parts.config.vision.layers, parts.layers
    graph = explain_graph(parts.config, parts.vision, layers, parts.form)
    return {"deep": Built(graph, layers, tuple(range(depth - layers, depth)))}


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    expected = oracle.explain(pixels, text, len(built["deep"].blocks))
    yield Case(("deep",), f"B={len(pixels)}, P={len(text)}", {"pixels": pixels, "text": text}, expected)


DEEP: Final = Group(
    "deep", "the signals of the last K blocks (--layers)", _build, _cases, frozenset({"keys", "values"}),
    lambda config: config.vision.pool != "latent",
)  # fmt: skip
