"""The oracles of "legrad" and "gradcam": autograd with respect to what each method's formula names."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tower

__all__ = ["gradcam_reference", "legrad_reference"]

Array = NDArray[np.generic]


def legrad_reference(oracle: Oracle, pixels: Array, target: Array, layers: int) -> dict[str, Array]:
    """Embedding and ``legrad`` of the last ``layers`` blocks, float32."""
    source, state = oracle.source, oracle.state
    vision, normalisation = source.config.vision, source.normalisation
    inputs = oracle.tensor(pixels).requires_grad_()
    embedding, trace = image_tower(state, source.config, inputs, normalisation.mean, normalisation.std)
    per_target = []
    for vector in oracle.tensor(target):
        maps = []
        for tokens, attention in zip(trace.output[-layers:], trace.attention[-layers:], strict=True):
            norm = F.layer_norm(
                tokens.mean(dim=1), (vision.width,), state["visual.ln_post.weight"], state["visual.ln_post.bias"],
                vision.eps,
            )  # fmt: skip
            score = F.normalize(norm @ state["visual.proj"], dim=-1) @ vector
            gradient = torch.autograd.grad(score.sum(), attention, retain_graph=True)[0]
            maps.append(gradient.clamp(min=0).mean(dim=(1, 2))[:, 1:])
        per_target.append(torch.stack(maps, dim=1))
    found = {"embedding": F.normalize(embedding, dim=-1), "legrad": torch.stack(per_target, dim=1)}
    return {name: tensor.detach().float().numpy() for name, tensor in found.items()}


def gradcam_reference(oracle: Oracle, pixels: Array, text: Array) -> dict[str, Array]:
    """Embedding, similarity, ``grad_cam`` and ``grad_cam_input``, float32."""
    normalisation = oracle.source.normalisation
    inputs = oracle.tensor(pixels).requires_grad_()
    embedding, trace = image_tower(oracle.state, oracle.source.config, inputs, normalisation.mean, normalisation.std)
    similarity = F.cosine_similarity(embedding[:, None], oracle.tensor(text)[None], dim=-1)
    normed, before = trace.normed[-1], trace.input[-1]
    of_normed, of_input = [], []
    for column in similarity.T:
        by_normed, by_input = torch.autograd.grad(column.sum(), (normed, before), retain_graph=True)
        of_normed.append((normed[:, 1:] * by_normed[:, 1:].mean(dim=1, keepdim=True)).sum(dim=-1))
        of_input.append((before[:, 1:] * by_input.mean(dim=1, keepdim=True)).sum(dim=-1))
    found = {
        "embedding": F.normalize(embedding, dim=-1),
        "similarity": similarity,
        "grad_cam": torch.stack(of_normed, dim=1),
        "grad_cam_input": torch.stack(of_input, dim=1),
    }
    return {name: tensor.detach().float().numpy() for name, tensor in found.items()}
