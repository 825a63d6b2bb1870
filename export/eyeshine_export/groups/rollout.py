"""Attention of all blocks: its product up to the class token, and its mean over heads for what needs the matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.products import rollout_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.products_reference import rollout_reference
from eyeshine_export.oracle import Oracle

__all__ = ["ROLLOUT"]


def _build(parts: Parts) -> dict[str, Built]:
    # Nothing but the attention of all blocks is written out.
    return {"rollout": Built(rollout_graph(parts.config, parts.vision, parts.form), 2)}


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels = inputs["pixels"]
    yield Case(("rollout",), f"B={len(pixels)}", {"pixels": pixels}, rollout_reference(oracle, pixels))


ROLLOUT: Final = Group("rollout", "attention of all blocks: rollout, and means over heads for flow", _build, _cases)
