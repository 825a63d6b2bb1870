"""The oracle of the group "lrp": an eager tower whose forward pass is CLIP's and whose autograd follows the rules.

A rule is a ``detach``: of 1/sigma, of 1/|e|, of the gate f(a)/a of an activation, of the attention in CP-LRP, and of
one half of either factor of a product in AttnLRP.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from eyeshine_export.config import VisionConfig
from eyeshine_export.oracle import Oracle

__all__ = ["lrp_reference"]

Array = NDArray[np.generic]
State = Mapping[str, torch.Tensor]


def lrp_reference(oracle: Oracle, pixels: Array, text: Array, *, through_attention: bool) -> dict[str, Array]:
    """Embedding, similarity and ``gradient`` [B, P, 3, Y, X], the modified gradient to RGB in 0..1, float32.

    ``through_attention``: AttnLRP, which shares relevance between attention and values; else CP-LRP.
    """
    source, state = oracle.source, oracle.state
    vision, normalisation = source.config.vision, source.normalisation
    leaf = oracle.tensor(pixels).requires_grad_()
    mean, std = (torch.tensor(x, dtype=leaf.dtype).reshape(1, 3, 1, 1) for x in (normalisation.mean, normalisation.std))
    patches = F.conv2d((leaf - mean) / std, state["visual.conv1.weight"], stride=vision.patch_size)
    first = state["visual.class_embedding"].expand(len(leaf), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + state["visual.positional_embedding"]
    if vision.pre_norm:
        x = _norm(state, "visual.ln_pre", x, vision.eps)
    for index in range(vision.layers):
        x = _block(state, f"visual.transformer.resblocks.{index}", x, vision, through_attention)
    embedding = _norm(state, "visual.ln_post", x[:, 0], vision.eps) @ state["visual.proj"]
    unit = embedding / embedding.norm(dim=-1, keepdim=True).detach()
    similarity = unit @ F.normalize(oracle.tensor(text), dim=-1).T
    gradients = [torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in similarity.T]
    found = {"embedding": unit, "similarity": similarity, "gradient": torch.stack(gradients, dim=1)}
    return {name: tensor.detach().float().numpy() for name, tensor in found.items()}


def _block(state: State, at: str, x: torch.Tensor, vision: VisionConfig, through_attention: bool) -> torch.Tensor:
    def linear(name: str, t: torch.Tensor) -> torch.Tensor:
        return F.linear(t, state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"])

    packed = F.linear(
        _norm(state, f"{at}.ln_1", x, vision.eps), state[f"{at}.attn.in_proj_weight"], state[f"{at}.attn.in_proj_bias"]
    )
    mixed = []
    for q, k, v in zip(*(part.chunk(vision.heads, dim=-1) for part in packed.chunk(3, dim=-1)), strict=True):
        if through_attention:
            scores = torch.einsum("bid,bjd->bij", _half(q), _half(k)) / q.shape[-1] ** 0.5
            mixed.append(_half(scores.softmax(dim=-1)) @ _half(v))
        else:
            scores = torch.einsum("bid,bjd->bij", q, k) / q.shape[-1] ** 0.5
            mixed.append(scores.softmax(dim=-1).detach() @ v)
    one = torch.ones((), dtype=x.dtype)
    y = x + linear("attn.out_proj", torch.cat(mixed, dim=-1)) * state.get(f"{at}.ls_1.gamma", one)
    a = linear("mlp.c_fc", _norm(state, f"{at}.ln_2", y, vision.eps))
    return y + linear("mlp.c_proj", a * _gate(vision, a).detach()) * state.get(f"{at}.ls_2.gamma", one)


def _gate(vision: VisionConfig, a: torch.Tensor) -> torch.Tensor:
    """f(a)/a of the activation."""
    if vision.activation == "quick_gelu":
        return torch.sigmoid(1.702 * a)
    if vision.activation == "gelu_tanh":
        return (1 + torch.tanh((2 / torch.pi) ** 0.5 * (a + 0.044715 * a**3))) / 2
    return (1 + torch.erf(a / 2**0.5)) / 2


def _norm(state: State, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    """LayerNorm with a frozen 1/sigma."""
    sigma = (x.var(dim=-1, correction=0, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(dim=-1, keepdim=True)) / sigma * state[f"{name}.weight"] + state[f"{name}.bias"]


def _half(x: torch.Tensor) -> torch.Tensor:
    """The same with half its gradient."""
    return x / 2 + (x / 2).detach()
