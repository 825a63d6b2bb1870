"""What Grad-ECLIP's released code explains: the model with one head in its last block, or in its last K blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.single_head import single_head_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.single_head_reference import single_head_reference
from eyeshine_export.oracle import Oracle

__all__ = ["SINGLE_HEAD"]

_SHARED: Final = 1
"""Cost beyond that of the explained blocks: the deployed model's own last blocks run as well."""


def _build(parts: Parts) -> dict[str, Built]:
    depth = parts.config.vision.layers
    names = {"single_head": 1, **({"single_head_deep": parts.layers} if parts.layers > 1 else {})}
    return {
        name: Built(
            single_head_graph(parts.config, parts.vision, layers, parts.form),
            layers + _SHARED,
            tuple(range(depth - layers, depth)),
        )
        for name, layers in names.items()
    }


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    shape, given = f"B={len(pixels)}, P={len(text)}", {"pixels": pixels, "text": text}
    for name, graph in built.items():
        yield Case((name,), shape, given, single_head_reference(oracle, pixels, text, len(graph.blocks)))


SINGLE_HEAD: Final = Group(
    "single_head", "what Grad-ECLIP's released code explains: the last blocks with one head each", _build, _cases
)  # fmt: skip
