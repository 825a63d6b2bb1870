"""Features of every token from blocks that attend otherwise: CLIP Surgery, and the last block alone in four ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.graph.surgery import GAUSSIAN_STD, patch_features_graph, surgery_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.surgery_reference import last_block_features, surgery_features
from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tower

__all__ = ["SURGERY"]

_DEPTH = 6
"""Blocks of the surgery: what the released code runs, which counts them as seven."""


def _build(parts: Parts) -> dict[str, Built]:
    depth = min(_DEPTH, parts.config.vision.layers)
    return {
        "surgery": Built(surgery_graph(parts.config, parts.vision, depth, parts.form), 2),
        "patch_features": Built(patch_features_graph(parts.config, parts.vision, parts.form), 2),
    }


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text = inputs["pixels"], inputs["text"]
    source = oracle.source
    vision, normalisation = source.config.vision, source.normalisation
    with torch.no_grad():
        embedding, trace = image_tower(
            oracle.state, source.config, oracle.tensor(pixels), normalisation.mean, normalisation.std
        )
        depth = min(_DEPTH, vision.layers)
        found = {
            "embedding": F.normalize(embedding, dim=-1),
            "similarity": F.cosine_similarity(embedding[:, None], oracle.tensor(text)[None], dim=-1),
            "surgery_features": surgery_features(
                oracle.state, vision, trace.input[-depth], trace.value[-depth:], embedding
            ),
            **last_block_features(
                oracle.state, vision, trace.input[-1], trace.query[-1], trace.key[-1], trace.value[-1], GAUSSIAN_STD
            ),
        }
    expected = {name: tensor.float().numpy() for name, tensor in found.items()}
    shape = f"B={len(pixels)}, P={len(text)}"
    yield Case(("surgery", "patch_features"), shape, {"pixels": pixels, "text": text}, expected)


SURGERY: Final = Group(
    "surgery", "features of all tokens from blocks that attend otherwise (CLIP Surgery, ClearCLIP)", _build, _cases
)
