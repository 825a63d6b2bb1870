"""``encode``, ``image`` and ``single_head`` for images of any size in whole patches.

Position embeddings are resampled in the graph. The last of them follows Grad-ECLIP's released code to its grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.single_head import single_head_graph
from eyeshine_export.graph.towers import encode_graph, explain_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.single_head_reference import single_head_reference
from eyeshine_export.oracle import Oracle

__all__ = ["SIZES"]

_SINGLE_HEAD: Final = "single_head_any"


def _build(parts: Parts) -> dict[str, Built]:
    config, form, last = parts.config, replace(parts.form, any_size=True), (parts.config.vision.depth - 1,)
    graphs = {
        "encode_any": Built(encode_graph(config, parts.vision, form), 1),
        "image_any": Built(explain_graph(config, parts.vision, form=form), 2, last),
    }
    if config.plain:
        graphs[_SINGLE_HEAD] = Built(single_head_graph(config, parts.vision, 1, form), 3, last)
    return graphs


def _whole_patches(config: ClipConfig) -> bool:
    vision = config.vision
    return not any(side % patch for side, patch in zip(vision.image_size, vision.patch_size, strict=True))


def _cases(
    oracle: Oracle, built: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    """Another grid, wider than high, and then the model's own, whose values become the golden ones."""
    own, text, vision = inputs["pixels"], inputs["text"], oracle.source.config.vision
    grid = (vision.grid[0] + 1, 2 * vision.grid[1])
    size = [count * patch for count, patch in zip(grid, vision.patch_size, strict=True)]
    wide = np.random.default_rng(len(own)).random((len(own), 3, *size), dtype=np.float32)
    for pixels in (wide, own):
        shape = f"B={len(pixels)}, P={len(text)}, {pixels.shape[2]}x{pixels.shape[3]}"
        given = {"pixels": pixels, "text": text}
        yield Case(("encode_any", "image_any"), shape, given, oracle.explain(pixels, text, 1))
        if _SINGLE_HEAD in built:
            yield Case((_SINGLE_HEAD,), shape, given, single_head_reference(oracle, pixels, text, 1))


SIZES: Final = Group(
    "sizes", "embeddings and signals of the last attention for images of any size in whole patches", _build, _cases,
    fits=_whole_patches,
)  # fmt: skip
