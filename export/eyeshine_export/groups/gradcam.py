"""Grad-CAM of the last block, in two conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.gradcam import gradcam_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.layers_reference import gradcam_reference
from eyeshine_export.oracle import Oracle

__all__ = ["GRADCAM"]


def _build(parts: Parts) -> dict[str, Built]:
    # Little beyond "image", but what asks for less should run that.
    return {"gradcam": Built(gradcam_graph(parts.config, parts.vision, parts.form), 2)}


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    shape = f"B={len(pixels)}, P={len(text)}"
    yield Case(("gradcam",), shape, {"pixels": pixels, "text": text}, gradcam_reference(oracle, pixels, text))


GRADCAM: Final = Group("gradcam", "Grad-CAM of the last block", _build, _cases)
