"""Heat maps of the class token's last block by torch's autograd, to watch a training run with.

The exported graphs compute the same without autograd; these are a second opinion, not what users run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

METHODS = ("attention", "grad_eclip", "chefer")


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """The last axis split into heads: [..., h*d] as [..., h, d]."""
    return x.reshape(*x.shape[:-1], heads, -1)


@dataclass(frozen=True)
class LastBlock:
    """What the class token sees and hands on in the last block, for a batch.

    ``attention`` [B, h, N] is its attention to the patches, ``values`` [B, h, N, d] theirs, ``affinity`` [B, N] the
    cosine of the class query with each patch's key over all heads, min-max over the patches, ``output`` [B, h*d] the
    class token's head outputs (a leaf, so that gradients can be taken), and ``embed`` maps such outputs to unit
    embeddings [B, E].
    """

    attention: torch.Tensor
    values: torch.Tensor
    affinity: torch.Tensor
    output: torch.Tensor
    embed: Callable[[torch.Tensor], torch.Tensor]


def last_block(model: Any, images: torch.Tensor) -> LastBlock:
    """Run the image tower (float32 [B, 3, H, W]) and open up its last block."""
    visual, block = model.visual, model.visual.transformer.resblocks[-1]
    caught: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append((args or (kwargs["q_x"],))[0]), with_kwargs=True
    )
    with torch.no_grad():
        visual(images)
        handle.remove()
        x = caught[0]
        heads = block.attn.num_heads
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
        affinity = F.cosine_similarity(q[:, :1], k[:, 1:], dim=-1)
        low, high = affinity.amin(1, keepdim=True), affinity.amax(1, keepdim=True)
        affinity = (affinity - low) / (high - low).clamp_min(1e-6)
        split = [_by_head(z, heads).transpose(1, 2) for z in (q, k, v)]
        attention = (split[0][:, :, :1] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5).softmax(-1)
        output = (attention @ split[2])[:, :, 0].flatten(1)

    def embed(out: torch.Tensor) -> torch.Tensor:
        cls = x[:, 0] + block.attn.out_proj(out)
        cls = cls + block.mlp(block.ln_2(cls))
        return F.normalize(visual.ln_post(cls) @ visual.proj, dim=-1)

    return LastBlock(attention[:, :, 0, 1:], split[2][:, :, 1:], affinity, output.requires_grad_(), embed)


def heat_maps(block: LastBlock, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """The patch maps [B, N] of every method for one unit target direction [E]."""
    score = (block.embed(block.output) @ target).sum()
    (gradient,) = torch.autograd.grad(score, block.output)
    heads = block.attention.shape[1]
    use = torch.einsum("bhd,bhnd->bhn", _by_head(gradient, heads), block.values)
    return {
        "attention": block.attention.mean(1),
        "grad_eclip": (block.affinity * use.sum(1)).relu(),
        "grad_eclip_flat": use.sum(1).relu(),
        "chefer": (block.attention * use).relu().mean(1),
    }
