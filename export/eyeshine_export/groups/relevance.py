"""Chefer et al.'s relevance over the attention of all blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.products import chefer_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.products_reference import chefer_reference
from eyeshine_export.oracle import Oracle

__all__ = ["RELEVANCE"]


def _build(parts: Parts) -> dict[str, Built]:
    graph = chefer_graph(parts.config, parts.vision, parts.form)
    return {"chefer": Built(graph, parts.config.vision.layers)}


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, target = inputs["pixels"], inputs["text"]
    shape = f"B={len(pixels)}, P={len(target)}"
    given = {"pixels": pixels, "target": target}
    yield Case(("chefer",), shape, given, chefer_reference(oracle, pixels, target))


RELEVANCE: Final = Group("relevance", "Chefer et al.'s relevance over all blocks", _build, _cases)
