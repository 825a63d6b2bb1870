"""The oracle of the group "single_head": the reference tower, its last blocks run again with one head, and autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine.signals import CONSTANT_COSINES, MODIFIED
from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tail, image_tower

__all__ = ["single_head_reference"]

Array = NDArray[np.generic]


def single_head_reference(oracle: Oracle, pixels: Array, text: Array, layers: int) -> dict[str, Array]:
    """Outputs of ``single_head_graph``, float32; one backward pass per prompt."""
    config, state, texts = oracle.source.config, oracle.state, oracle.tensor(text)
    normalisation = oracle.source.normalisation
    with torch.no_grad():
        deployed, trace = image_tower(state, config, oracle.tensor(pixels), normalisation.mean, normalisation.std)
    merged = replace(config, vision=replace(config.vision, heads=1))
    embedding, kept = image_tail(state, merged, trace.input[-layers].requires_grad_(), layers)
    similarity = F.cosine_similarity(embedding[:, None], texts[None], dim=-1)
    # Images of a batch do not interact: the gradient of the sum is each image's own gradient.
    columns = [torch.autograd.grad(column.sum(), kept.mixed, retain_graph=True) for column in similarity.T]
    gradient = torch.stack([torch.stack([grad[:, 0] for grad in column], 1) for column in columns], 1)
    out = []
    for block, tokens in enumerate(zip(kept.query, kept.key, strict=True), config.vision.layers - layers):
        at = f"visual.transformer.resblocks.{block}"
        weight, bias = state[f"{at}.attn.out_proj.weight"], state[f"{at}.attn.out_proj.bias"]
        scale = state.get(f"{at}.ls_1.gamma", torch.ones_like(bias))
        out.append(_spatial_weights(*(F.linear(each, weight, bias) * scale for each in tokens)))
    raw = [_spatial_weights(query, key) for query, key in zip(kept.query, kept.key, strict=True)]
    found = {
        "embedding": F.normalize(deployed, dim=-1),
        "similarity": F.cosine_similarity(deployed[:, None], texts[None], dim=-1),
        f"{MODIFIED}similarity": similarity,
        f"{MODIFIED}values": torch.stack(kept.value, 1),
        f"{MODIFIED}spatial_weights": torch.stack(raw, 1),
        f"{MODIFIED}spatial_weights_out": torch.stack(out, 1),
        f"{MODIFIED}gradient": gradient,
    }
    return {name: tensor.detach().float().numpy() for name, tensor in found.items()}


def _spatial_weights(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """[B, T, D] each, of all tokens -> [B, N], min-max over the patches, with the guard against 0/0."""
    cosine = F.cosine_similarity(query[:, :1], key[:, 1:], dim=-1, eps=1e-12)
    low, high = cosine.amin(-1, keepdim=True), cosine.amax(-1, keepdim=True)
    return torch.where(high - low > CONSTANT_COSINES, (cosine - low) / (high - low), 0.0)
