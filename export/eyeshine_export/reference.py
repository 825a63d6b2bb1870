"""The oracle: a CLIP tower in plain eager PyTorch from the same state dictionary, gradients by autograd.

It shares nothing with the graphs but the state dictionary and the configuration: no folding, no cut last block, full
attention written out per head, and ``torch.autograd`` instead of a hand-written VJP. Export compares every written
graph with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from eyeshine.signals import CONSTANT_COSINES
from eyeshine_export.config import ClipConfig, TowerConfig

__all__ = ["explain_reference", "image_tail", "image_tower", "text_reference", "text_tower"]

State = Mapping[str, torch.Tensor]


class _Trace:
    """Per-block tensors of one forward pass."""

    def __init__(self) -> None:
        self.input: list[torch.Tensor] = []
        self.normed: list[torch.Tensor] = []
        self.query: list[torch.Tensor] = []
        self.key: list[torch.Tensor] = []
        self.value: list[torch.Tensor] = []
        self.attention: list[torch.Tensor] = []
        self.mixed: list[torch.Tensor] = []
        self.output: list[torch.Tensor] = []


def _block(
    state: State, at: str, x: torch.Tensor, config: TowerConfig, mask: torch.Tensor | None, trace: _Trace
) -> torch.Tensor:
    def norm(name: str, t: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(t, (config.width,), state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"], config.eps)

    def linear(name: str, t: torch.Tensor) -> torch.Tensor:
        return F.linear(t, state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"])

    count, length, width = x.shape
    normed = norm("ln_1", x)
    packed = F.linear(normed, state[f"{at}.attn.in_proj_weight"], state[f"{at}.attn.in_proj_bias"])
    query, key, value = packed.chunk(3, dim=-1)
    q, k, v = (t.reshape(count, length, config.heads, -1).transpose(1, 2) for t in (query, key, value))
    scores = q @ k.transpose(-2, -1) / (width // config.heads) ** 0.5
    attention = (scores if mask is None else scores + mask).softmax(dim=-1)
    mixed = (attention @ v).transpose(1, 2).reshape(count, length, width)
    for kept, tensor in zip(
        (trace.input, trace.normed, trace.query, trace.key, trace.value, trace.attention, trace.mixed),
        (x, normed, query, key, value, attention, mixed),
        strict=True,
    ):
        kept.append(tensor)
    y = x + linear("attn.out_proj", mixed) * state.get(f"{at}.ls_1.gamma", torch.ones((), dtype=x.dtype))
    hidden = linear("mlp.c_fc", norm("ln_2", y))
    active = F.gelu(hidden) if config.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden)
    trace.output.append(y + linear("mlp.c_proj", active) * state.get(f"{at}.ls_2.gamma", torch.ones((), dtype=x.dtype)))
    return trace.output[-1]


def image_tower(
    state: State, config: ClipConfig, pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, _Trace]:
    """pixels [B, 3, Y, X] in 0..1 -> embedding [B, E], not normalised, and every block's tensors."""
    vision = config.vision
    shift = torch.tensor(mean, dtype=pixels.dtype).reshape(1, 3, 1, 1)
    scale = torch.tensor(std, dtype=pixels.dtype).reshape(1, 3, 1, 1)
    patches = F.conv2d((pixels - shift) / scale, state["visual.conv1.weight"], stride=vision.patch_size)
    tokens = patches.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, tokens], dim=1) + state["visual.positional_embedding"]
    if vision.pre_norm:
        x = F.layer_norm(x, (vision.width,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"], vision.eps)
    return image_tail(state, config, x, vision.layers)


def image_tail(state: State, config: ClipConfig, x: torch.Tensor, count: int) -> tuple[torch.Tensor, _Trace]:
    """Tokens [B, T, D] before the last ``count`` blocks -> embedding [B, E], not normalised, and their tensors."""
    vision, trace = config.vision, _Trace()
    for index in range(vision.layers - count, vision.layers):
        x = _block(state, f"visual.transformer.resblocks.{index}", x, vision, None, trace)
    x = F.layer_norm(x[:, 0], (vision.width,), state["visual.ln_post.weight"], state["visual.ln_post.bias"], vision.eps)
    return x @ state["visual.proj"], trace


def explain_reference(
    state: State,
    config: ClipConfig,
    pixels: torch.Tensor,
    text: torch.Tensor,
    layers: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> dict[str, torch.Tensor]:
    """All signals of the last ``layers`` blocks by autograd, one backward pass per image and prompt."""
    state = {name: tensor.detach() for name, tensor in state.items()}
    embedding, trace = image_tower(state, config, pixels.detach().requires_grad_(), mean, std)
    unit = F.normalize(embedding, dim=-1)
    similarity = unit @ F.normalize(text, dim=-1).T
    mixed = trace.mixed[-layers:]
    query = torch.stack([q[:, 0] for q in trace.query[-layers:]], dim=1).detach()
    keys = torch.stack(trace.key[-layers:], dim=1).detach()
    gradients = []
    for prompt in range(len(text)):
        # Images of a batch do not interact: the gradient of the sum is each image's own gradient.
        per_block = torch.autograd.grad(similarity[:, prompt].sum(), mixed, retain_graph=True)
        gradients.append(torch.stack([g[:, 0] for g in per_block], dim=1))
    return {
        "embedding": unit.detach(),
        "similarity": similarity.detach(),
        "class_query": query,
        "keys": keys,
        "spatial_weights": _spatial_weights(query, keys),
        "values": torch.stack(trace.value[-layers:], dim=1).detach(),
        "class_attention": torch.stack([a[:, :, 0] for a in trace.attention[-layers:]], dim=1).detach(),
        "gradient": torch.stack(gradients, dim=1).detach(),
    }


def _spatial_weights(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """query [B, K, D], keys [B, K, T, D] -> [B, K, N], as the authors' code but for the guard against 0/0."""
    cosine = (F.normalize(query, dim=-1)[:, :, None] * F.normalize(keys[:, :, 1:], dim=-1)).sum(-1)
    low, high = cosine.amin(-1, keepdim=True), cosine.amax(-1, keepdim=True)
    return torch.where(high - low > CONSTANT_COSINES, (cosine - low) / (high - low), 0.0)


def text_reference(state: State, config: ClipConfig, tokens: torch.Tensor) -> torch.Tensor:
    """tokens [P, L] -> unit text embedding [P, E]."""
    return text_tower(state, config, tokens)[0]


def text_tower(state: State, config: ClipConfig, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Trace]:
    """tokens [P, L] -> unit text embedding [P, E], place of each text's output row [P], every block's tensors."""
    text = config.text
    length = tokens.shape[1]
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][:length]
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
    trace = _Trace()
    for index in range(text.layers):
        x = _block(state, f"transformer.resblocks.{index}", x, text, mask, trace)
    x = F.layer_norm(x, (text.width,), state["ln_final.weight"], state["ln_final.bias"], text.eps)
    end = tokens.argmax(dim=-1) if text.end_id is None else (tokens == text.end_id).int().argmax(dim=-1)
    row = x[torch.arange(len(tokens)), end]
    if "text_projection.weight" in state:
        return F.normalize(row @ state["text_projection.weight"].T, dim=-1), end, trace
    return F.normalize(row @ state["text_projection"], dim=-1), end, trace
