"""Layer-wise relevance propagation down to the pixels, as modified gradients: AttnLRP and CP-LRP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.lrp import ATTNLRP, CPLRP
from eyeshine_export.graph.pixels import pixels_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.lrp_reference import lrp_reference
from eyeshine_export.oracle import Oracle

__all__ = ["LRP"]

_RULES = {"attnlrp": ATTNLRP, "cplrp": CPLRP}


def _build(parts: Parts) -> dict[str, Built]:
    depth = parts.config.vision.layers
    return {
        name: Built(pixels_graph(parts.config, parts.vision, rules, parts.form), depth)
        for name, rules in _RULES.items()
    }


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    for name in built:
        expected = lrp_reference(oracle, pixels, text, through_attention=name == "attnlrp")
        expected[f"{name}_gradient"] = expected.pop("gradient")
        shape = f"B={len(pixels)}, P={len(text)}"
        yield Case((name,), shape, {"pixels": pixels, "text": text}, expected)


LRP: Final = Group("lrp", "relevance propagated to the pixels (AttnLRP, CP-LRP)", _build, _cases)
