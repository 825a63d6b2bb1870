"""open_clip's own modules with their heads and blocks behind gates: an oracle of the graph "gates"."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["gated_trace"]


def gated_trace(
    model: Any, tokens: torch.Tensor, heads: np.ndarray, values: np.ndarray, blocks: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One image from the tokens [1, T, D] before the first block on, with what every head mixes gated.

    Args:
        model: open_clip's.
        tokens: [1, T, D].
        heads: [L, H] factors.
        values: [L, D], added with one less the factor.
        blocks: [L, 2], factors of attention and MLP.

    Returns:
        Unit embedding [E], every head's mean over the tokens [L, D], the last block's normed tokens [T, D].
    """
    visual, x, means = model.visual, tokens, []
    for index, block in enumerate(visual.transformer.resblocks):
        attn, normed = block.attn, block.ln_1(x)
        width, count = x.shape[-1], block.attn.num_heads
        query, key, value = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).split(width, dim=-1)
        q, k, v = (t.unflatten(-1, (count, width // count)) for t in (query, key, value))
        attention = torch.einsum("bihd,bjhd->bhij", q, k).div((width // count) ** 0.5).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", attention, v)
        means.append(mixed.flatten(2).mean(1))
        instead = torch.from_numpy(values[index]).reshape(count, -1)
        for head in range(count):
            mixed[:, :, head] = heads[index, head] * mixed[:, :, head] + (1 - heads[index, head]) * instead[head]
        x = x + blocks[index, 0] * block.ls_1(attn.out_proj(mixed.flatten(2)))
        x = x + blocks[index, 1] * block.ls_2(block.mlp(block.ln_2(x)))
    embedding = visual.ln_post(x[:, 0]) @ visual.proj
    return F.normalize(embedding, dim=-1)[0], torch.stack(means, 1)[0], normed[0]
