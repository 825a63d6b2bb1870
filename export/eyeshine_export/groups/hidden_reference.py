"""The oracle of the group "hidden": eager PyTorch and autograd on the reference tower."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.oracle import Oracle
from eyeshine_export.reference import image_tail, image_tower, text_tail, text_tower

__all__ = ["hidden_reference", "tail_reference", "text_hidden_reference", "text_tail_reference"]

Array = NDArray[np.generic]


def hidden_reference(oracle: Oracle, pixels: Array, text: Array, count: int) -> dict[str, Array]:
    """Embedding, similarity and ``hidden`` of the last ``count`` blocks, float32."""
    source = oracle.source
    mean, std = source.normalisation.mean, source.normalisation.std
    with torch.no_grad():
        embedding, trace = image_tower(oracle.state, source.config, oracle.tensor(pixels), mean, std)
        found = {
            "embedding": F.normalize(embedding, dim=-1),
            "similarity": F.cosine_similarity(embedding[:, None], oracle.tensor(text)[None], dim=-1),
            "hidden": torch.stack(trace.input[-count:], dim=1),
        }
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def tail_reference(oracle: Oracle, state: Array, text: Array, count: int) -> dict[str, Array]:
    """Embedding, similarity and ``state_gradient`` of the last ``count`` blocks, float32; one backward per prompt."""
    tokens = oracle.tensor(state).requires_grad_()
    embedding = image_tail(oracle.state, oracle.source.config, tokens, count)[0]
    similarity = F.cosine_similarity(embedding[:, None], oracle.tensor(text)[None], dim=-1)
    # Images of a batch do not interact: the gradient of the sum is each image's own gradient.
    gradients = [torch.autograd.grad(column.sum(), tokens, retain_graph=True)[0] for column in similarity.T]
    found = {
        "embedding": F.normalize(embedding, dim=-1),
        "similarity": similarity,
        "state_gradient": torch.stack(gradients, dim=1),
    }
    return {name: tensor.detach().float().numpy() for name, tensor in found.items()}


def text_hidden_reference(oracle: Oracle, tokens: Array, count: int) -> dict[str, Array]:
    """``text_hidden`` of the last ``count`` blocks, float32."""
    with torch.no_grad():
        trace = text_tower(oracle.state, oracle.source.config, torch.from_numpy(tokens))[2]
        return {"text_hidden": torch.stack(trace.input[-count:], dim=1).float().numpy()}


def text_tail_reference(oracle: Oracle, state: Array, image: Array, count: int) -> dict[str, Array]:
    """Text embedding, similarity and ``text_state_gradient``, float32; each text's last token is its output row."""
    tokens = oracle.tensor(state).requires_grad_()
    embedding = text_tail(oracle.state, oracle.source.config, tokens, count)
    similarity = embedding @ F.normalize(oracle.tensor(image), dim=-1).T
    gradients = [torch.autograd.grad(column.sum(), tokens, retain_graph=True)[0] for column in similarity.T]
    found = {
        "text_embedding": embedding,
        "text_similarity": similarity,
        "text_state_gradient": torch.stack(gradients, dim=1),
    }
    return {name: tensor.detach().float().numpy() for name, tensor in found.items()}
