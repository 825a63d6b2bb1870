"""The signals of the last K blocks with the queries of their patches: what MMEL relates patches by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from eyeshine_export.graph.towers import explain_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tower

__all__ = ["QUERIES"]


def _build(parts: Parts) -> dict[str, Built]:
    depth, layers = parts.config.vision.layers, parts.layers
    graph = explain_graph(parts.config, parts.vision, layers, parts.form, queries=True)
    return {"queries": Built(graph, layers + 1, tuple(range(depth - layers, depth)))}


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text, layers = inputs["pixels"], inputs["text"], len(built["queries"].blocks)
    normalisation = oracle.source.normalisation
    with torch.no_grad():
        trace = image_tower(
            oracle.state, oracle.source.config, oracle.tensor(pixels), normalisation.mean, normalisation.std
        )[1]
    queries = torch.stack(trace.query[-layers:], 1)[:, :, 1:].float().numpy()
    expected = {**oracle.explain(pixels, text, layers), "queries": queries}
    yield Case(("queries",), f"B={len(pixels)}, P={len(text)}", {"pixels": pixels, "text": text}, expected)


QUERIES: Final = Group(
    "queries", "the signals of the last K blocks with the patches' queries (--layers)", _build, _cases,
    frozenset({"keys", "values"}),
)  # fmt: skip
