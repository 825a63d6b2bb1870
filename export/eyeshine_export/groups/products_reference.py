"""The oracles of "rollout" and "relevance": whole matrices multiplied in float64, gradients by autograd."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tower

__all__ = ["chefer_reference", "rollout_reference"]

Array = NDArray[np.generic]


def rollout_reference(oracle: Oracle, pixels: Array) -> dict[str, Array]:
    """Embedding, ``rollout`` and ``attention_mean``, float32."""
    normalisation = oracle.source.normalisation
    with torch.no_grad():
        embedding, trace = image_tower(
            oracle.state, oracle.source.config, oracle.tensor(pixels), normalisation.mean, normalisation.std
        )
        means = [attention.mean(dim=1) for attention in trace.attention]
        identity = torch.eye(means[0].shape[-1], dtype=means[0].dtype)
        steps = [(mean + identity) / (mean + identity).sum(dim=-1, keepdim=True) for mean in means]
        rows = []
        for start in range(len(steps)):
            joint = steps[start]
            for step in steps[start + 1 :]:
                joint = step @ joint
            rows.append(joint[:, 0, 1:])
        found = {
            "embedding": F.normalize(embedding, dim=-1),
            "rollout": torch.stack(rows, dim=1),
            "attention_mean": torch.stack(means, dim=1),
        }
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def chefer_reference(oracle: Oracle, pixels: Array, target: Array) -> dict[str, Array]:
    """Embedding and ``chefer_relevance``, float32; one backward pass per target, one product per block it begins at."""
    normalisation = oracle.source.normalisation
    inputs = oracle.tensor(pixels).requires_grad_()
    embedding, trace = image_tower(oracle.state, oracle.source.config, inputs, normalisation.mean, normalisation.std)
    unit = F.normalize(embedding, dim=-1)
    per_target = []
    for vector in oracle.tensor(target):
        # Images of a batch do not interact: the gradient of the sum is each image's own gradient.
        gradients = torch.autograd.grad((unit @ vector).sum(), trace.attention, retain_graph=True)
        positive = [
            (gradient * attention).clamp(min=0).mean(dim=1).detach()
            for gradient, attention in zip(gradients, trace.attention, strict=True)
        ]
        rows = []
        for start in range(len(positive)):
            relevance = torch.eye(positive[0].shape[-1], dtype=inputs.dtype).expand_as(positive[0])
            for step in positive[start:]:
                relevance = relevance + step @ relevance
            rows.append(relevance[:, 0, 1:])
        per_target.append(torch.stack(rows, dim=1))
    found = {"embedding": unit.detach(), "chefer_relevance": torch.stack(per_target, dim=1)}
    return {name: tensor.float().numpy() for name, tensor in found.items()}
