"""The oracle of the group "surgery": its features from inputs, queries, keys and values of the reference's blocks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from eyeshine_export.config import VisionConfig

__all__ = ["last_block_features", "surgery_features"]

State = Mapping[str, torch.Tensor]


def surgery_features(
    state: State, vision: VisionConfig, tokens: torch.Tensor, values: list[torch.Tensor], embedding: torch.Tensor
) -> torch.Tensor:
    """CLIP Surgery's unit features [B, T, E].

    Args:
        state: open_clip's state dictionary.
        vision: sizes.
        tokens: [B, T, D] before the first block of the surgery.
        values: of its blocks, ascending, each [B, T, D].
        embedding: [B, E], the deployed model's.
    """
    first = vision.layers - len(values)
    added = [_out(state, first + index, _attend(vision, v, v, v)) for index, v in enumerate(values)]
    patches = _head(state, vision, tokens + torch.stack(added).sum(0))[:, 1:]
    return torch.cat([F.normalize(embedding, dim=-1)[:, None], patches], dim=1)


def last_block_features(
    state: State, vision: VisionConfig, x: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    std: float,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Unit patch features [B, N, E] of the last block with other attentions; all arguments are that block's [B, T, D].

    ``std`` is that of NACLIP's Gaussian, in patches.
    """
    last = vision.layers - 1
    window = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    places = torch.cartesian_prod(*(torch.arange(side, dtype=x.dtype) for side in vision.grid)).reshape(-1, 2)
    window[1:, 1:] = torch.exp(-torch.cdist(places, places).square() / (2 * std**2))
    by_query, by_key = _attend(vision, query, query, value), _attend(vision, key, key, value)
    rows = {
        "maskclip_bare": _out(state, last, value),
        "maskclip": _mlp(state, vision, last, x + _out(state, last, value)),
        "sclip": _mlp(state, vision, last, x + _out(state, last, by_query + by_key)),
        "clearclip": _out(state, last, by_query),
        "naclip": _out(state, last, _attend(vision, key, key, value, window)),
    }
    return {f"{name}_features": _head(state, vision, y)[:, 1:] for name, y in rows.items()}


def _attend(
    vision: VisionConfig, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of every head apart, [B, T, D]; the bias is added to the scaled scores."""
    mixed = []
    for q, k, v in zip(*(x.chunk(vision.heads, dim=-1) for x in (query, key, value)), strict=True):
        scores = torch.einsum("bid,bjd->bij", q, k) / q.shape[-1] ** 0.5
        mixed.append((scores if bias is None else scores + bias).softmax(dim=-1) @ v)
    return torch.cat(mixed, dim=-1)


def _out(state: State, block: int, mixed: torch.Tensor) -> torch.Tensor:
    at = f"visual.transformer.resblocks.{block}"
    out = F.linear(mixed, state[f"{at}.attn.out_proj.weight"], state[f"{at}.attn.out_proj.bias"])
    return out * state[f"{at}.ls_1.gamma"] if f"{at}.ls_1.gamma" in state else out


def _mlp(state: State, vision: VisionConfig, block: int, y: torch.Tensor) -> torch.Tensor:
    at = f"visual.transformer.resblocks.{block}"
    normed = F.layer_norm(y, (vision.width,), state[f"{at}.ln_2.weight"], state[f"{at}.ln_2.bias"], vision.eps)
    hidden = F.linear(normed, state[f"{at}.mlp.c_fc.weight"], state[f"{at}.mlp.c_fc.bias"])
    tanh = "tanh" if vision.activation == "gelu_tanh" else "none"
    quick = vision.activation == "quick_gelu"
    active = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden, approximate=tanh)
    out = F.linear(active, state[f"{at}.mlp.c_proj.weight"], state[f"{at}.mlp.c_proj.bias"])
    return y + (out * state[f"{at}.ls_2.gamma"] if f"{at}.ls_2.gamma" in state else out)


def _head(state: State, vision: VisionConfig, x: torch.Tensor) -> torch.Tensor:
    x = F.layer_norm(x, (vision.width,), state["visual.ln_post.weight"], state["visual.ln_post.bias"], vision.eps)
    return F.normalize(x @ state["visual.proj"], dim=-1)
