"""The oracle of the group ``words``: the text tower in plain PyTorch, gradients by autograd."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.config import ClipConfig
from eyeshine_export.reference import text_tower

__all__ = ["words_reference"]


def words_reference(
    state: Mapping[str, torch.Tensor],
    config: ClipConfig,
    tokens: NDArray[np.generic],
    image: torch.Tensor,
    layers: int,
) -> dict[str, NDArray[np.generic]]:
    """All signals of the last ``layers`` text blocks, float32: tokens [P, L], image vectors [B, E]."""
    table = state["token_embedding.weight"].detach().requires_grad_()
    embedding, ends, trace = text_tower({**state, "token_embedding.weight": table}, config, torch.from_numpy(tokens))
    similarity = embedding @ F.normalize(image, dim=-1).T
    rows = torch.arange(len(tokens))
    gradients = []
    for column in range(len(image)):
        # Texts of a batch do not interact: the gradient of the sum is each text's own gradient.
        per_block = torch.autograd.grad(similarity[:, column].sum(), trace.mixed[-layers:], retain_graph=True)
        gradients.append(torch.stack([g[rows, ends] for g in per_block], dim=1))
    signals = {
        "text_embedding": embedding,
        "text_similarity": similarity,
        "text_queries": torch.stack(trace.query[-layers:], dim=1),
        "text_keys": torch.stack(trace.key[-layers:], dim=1),
        "text_values": torch.stack(trace.value[-layers:], dim=1),
        "text_attention": torch.stack([a[rows, :, ends] for a in trace.attention[-layers:]], dim=1),
        "text_gradient": torch.stack(gradients, dim=1),
    }
    return {name: tensor.detach().float().numpy() for name, tensor in signals.items()}
