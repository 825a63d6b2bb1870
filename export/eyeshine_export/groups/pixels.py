"""The gradient of the cosine with respect to the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.graph.pixels import pixels_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tower

__all__ = ["PIXELS"]


def _build(parts: Parts) -> dict[str, Built]:
    graph = pixels_graph(parts.config, parts.vision, form=parts.form)
    return {"pixels": Built(graph, parts.config.vision.layers)}


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    source = oracle.source
    pixels, text = oracle.tensor(inputs["pixels"]).requires_grad_(), oracle.tensor(inputs["text"])
    mean, std = source.normalisation.mean, source.normalisation.std
    embedding = image_tower(oracle.state, source.config, pixels, mean, std)[0]
    similarity = F.cosine_similarity(embedding[:, None], text[None], dim=-1)
    # Images of a batch do not interact: the gradient of the sum is each image's own gradient.
    gradients = [torch.autograd.grad(column.sum(), pixels, retain_graph=True)[0] for column in similarity.T]
    found = {
        "embedding": F.normalize(embedding, dim=-1),
        "similarity": similarity,
        "pixel_gradient": torch.stack(gradients, dim=1),
    }
    expected = {name: tensor.detach().float().numpy() for name, tensor in found.items()}
    given = {"pixels": inputs["pixels"], "text": inputs["text"]}
    yield Case(("pixels",), f"B={len(pixels)}, P={len(text)}", given, expected)


PIXELS: Final = Group("pixels", "the gradient of the cosine with respect to the pixels", _build, _cases)
