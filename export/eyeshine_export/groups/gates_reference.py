"""The oracle of the group "gates": eager PyTorch, head by head, on the state dictionary.

A patch's gate multiplies its attention weights after the softmax, and these are divided by their new sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.oracle import Oracle

__all__ = ["gates_reference"]

Array = NDArray[np.generic]


def gates_reference(oracle: Oracle, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Embedding, ``head_means`` and ``features``, float32."""
    source, state = oracle.source, oracle.state
    vision = source.config.vision
    heads, blocks, patches, values = (
        oracle.tensor(inputs[name]) for name in ("head_gates", "block_gates", "token_gates", "head_values")
    )
    with torch.no_grad():
        shown = torch.cat([torch.ones_like(patches[:, :1]), patches], dim=1)[:, None]
        x, means, normed = _tokens(oracle, inputs["pixels"]), [], torch.empty(0)
        one = torch.ones((), dtype=x.dtype)
        for index in range(vision.layers):
            at = f"visual.transformer.resblocks.{index}"

            def norm(name: str, t: torch.Tensor, at: str = at) -> torch.Tensor:
                return F.layer_norm(
                    t, (vision.width,), state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"], vision.eps
                )

            def linear(name: str, t: torch.Tensor, at: str = at) -> torch.Tensor:
                return F.linear(t, state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"])

            normed = norm("ln_1", x)
            packed = F.linear(normed, state[f"{at}.attn.in_proj_weight"], state[f"{at}.attn.in_proj_bias"])
            query, key, value = (t.chunk(vision.heads, dim=-1) for t in packed.chunk(3, dim=-1))
            instead = values[index].chunk(vision.heads)
            mixed, kept = [], []
            for head in range(vision.heads):
                weights = (query[head] @ key[head].mT / query[head].shape[-1] ** 0.5).softmax(dim=-1) * shown
                mixed.append((weights / weights.sum(dim=-1, keepdim=True)) @ value[head])
                gate = heads[:, index, head, None, None]
                kept.append(gate * mixed[-1] + (1 - gate) * instead[head])
            means.append(torch.cat(mixed, dim=-1).mean(dim=1))
            attention, mlp = blocks[:, index].unbind(dim=1)
            out = linear("attn.out_proj", torch.cat(kept, dim=-1)) * state.get(f"{at}.ls_1.gamma", one)
            x = x + attention[:, None, None] * out
            hidden = linear("mlp.c_fc", norm("ln_2", x))
            active = F.gelu(hidden) if vision.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden)
            out = linear("mlp.c_proj", active) * state.get(f"{at}.ls_2.gamma", one)
            x = x + mlp[:, None, None] * out
        final = (state["visual.ln_post.weight"], state["visual.ln_post.bias"])
        embedding = F.layer_norm(x[:, 0], (vision.width,), *final, vision.eps) @ state["visual.proj"]
    found = {"embedding": F.normalize(embedding, dim=-1), "head_means": torch.stack(means, dim=1), "features": normed}
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def _tokens(oracle: Oracle, pixels: Array) -> torch.Tensor:
    """The tokens before the first block."""
    source, state = oracle.source, oracle.state
    vision = source.config.vision
    mean, std = (
        torch.tensor(x, dtype=oracle.dtype).reshape(1, 3, 1, 1)
        for x in (source.normalisation.mean, source.normalisation.std)
    )
    patches = F.conv2d((oracle.tensor(pixels) - mean) / std, state["visual.conv1.weight"], stride=vision.patch_size)
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches.flatten(2).mT], dim=1) + state["visual.positional_embedding"]
    if not vision.pre_norm:
        return x
    return F.layer_norm(
        x, (vision.width,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"], vision.eps
    )  # fmt: skip
