"""LeGrad of the last K blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.legrad import legrad_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.layers_reference import legrad_reference
from eyeshine_export.oracle import Oracle

__all__ = ["LEGRAD"]


def _build(parts: Parts) -> dict[str, Built]:
    depth, layers = parts.config.vision.layers, parts.layers
    graph = legrad_graph(parts.config, parts.vision, layers, parts.form)
    return {"legrad": Built(graph, layers, tuple(range(depth - layers, depth)))}


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, target = inputs["pixels"], inputs["text"]
    shape = f"B={len(pixels)}, P={len(target)}"
    expected = legrad_reference(oracle, pixels, target, len(built["legrad"].blocks))
    yield Case(("legrad",), shape, {"pixels": pixels, "target": target}, expected)


LEGRAD: Final = Group("legrad", "LeGrad of the last K blocks (--layers)", _build, _cases)
