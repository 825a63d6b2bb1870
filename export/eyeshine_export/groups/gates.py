"""The image tower with its heads, blocks and patches behind gates: for interventions, and for ViT-CX's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.gates import gates_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.gates_reference import gates_reference
from eyeshine_export.oracle import Oracle

__all__ = ["GATES"]


def _build(parts: Parts) -> dict[str, Built]:
    return {"gates": Built(gates_graph(parts.config, parts.vision, parts.form), 1)}


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    """Every gate shut, open or half open; each image its own."""
    vision, pixels = oracle.source.config.vision, inputs["pixels"]
    count, depth = len(pixels), vision.layers
    random = np.random.default_rng(count)

    def gates(*shape: int) -> NDArray[np.float32]:
        return random.choice(np.array([0, 0.5, 1], np.float32), (count, *shape))

    given = {
        "pixels": pixels,
        "head_gates": gates(depth, vision.heads),
        "block_gates": gates(depth, 2),
        "token_gates": gates(vision.grid[0] * vision.grid[1]),
        "head_values": random.standard_normal((depth, vision.width), np.float32),
    }
    yield Case(("gates",), f"B={count}", given, gates_reference(oracle, given))


GATES: Final = Group("gates", "heads, blocks and patches behind gates, for interventions", _build, _cases)
