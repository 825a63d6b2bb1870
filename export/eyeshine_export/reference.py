"""The oracle: a CLIP tower in plain eager PyTorch from the same state dictionary, gradients by autograd.

It shares nothing with the graphs but the state dictionary and the configuration: no folding, no cut last block, full
attention written out per head, and ``torch.autograd`` instead of a hand-written VJP. Export compares every written
graph with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

from eyeshine.signals import CONSTANT_COSINES
from eyeshine_export.config import ClipConfig, PoolerConfig, TextConfig, TowerConfig, VisionConfig

__all__ = ["explain_reference", "image_tail", "image_tower", "text_reference", "text_tail", "text_tower"]

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

    def keep(self, *tensors: torch.Tensor) -> None:
        """Add one block: input, normed, query, key, value, attention, mixed."""
        kept = (self.input, self.normed, self.query, self.key, self.value, self.attention, self.mixed)
        for block, tensor in zip(kept, tensors, strict=True):
            block.append(tensor)


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
    trace.keep(x, normed, query, key, value, attention, mixed)
    y = x + linear("attn.out_proj", mixed) * state.get(f"{at}.ls_1.gamma", torch.ones((), dtype=x.dtype))
    active = _activation(config, linear("mlp.c_fc", norm("ln_2", y)))
    trace.output.append(y + linear("mlp.c_proj", active) * state.get(f"{at}.ls_2.gamma", torch.ones((), dtype=x.dtype)))
    return trace.output[-1]


def _activation(config: TowerConfig, hidden: torch.Tensor) -> torch.Tensor:
    if config.activation == "quick_gelu":
        return hidden * torch.sigmoid(1.702 * hidden)
    return F.gelu(hidden, approximate="tanh" if config.activation == "gelu_tanh" else "none")


def _pooler(state: State, config: PoolerConfig, x: torch.Tensor, trace: _Trace) -> torch.Tensor:
    """All learned queries attend to tokens [B, T, C] -> [B, Q, D]; its tensors come last in the trace."""
    at, width = "visual.attn_pool", config.width

    def norm(name: str, t: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(t, t.shape[-1:], state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"], config.eps)

    def linear(name: str, t: torch.Tensor) -> torch.Tensor:
        return F.linear(t, state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"])

    latent = state[f"{at}.query"]
    latent = norm("ln_q", latent) if f"{at}.ln_q.weight" in state else latent
    normed = norm("ln_k", x)
    if f"{at}.attn.in_proj_weight" in state:
        matrices = list(state[f"{at}.attn.in_proj_weight"].chunk(3))
    else:
        matrices = [state[f"{at}.attn.{part}_proj_weight"] for part in "qkv"]
    biases = state[f"{at}.attn.in_proj_bias"].chunk(3)
    inputs = (latent.expand(len(x), -1, -1), normed, normed)
    query, key, value = (F.linear(t, w, b) for t, w, b in zip(inputs, matrices, biases, strict=True))
    q, k, v = (t.reshape(*t.shape[:2], config.heads, -1).transpose(1, 2) for t in (query, key, value))
    attention = (q @ k.transpose(-2, -1) / (width // config.heads) ** 0.5).softmax(dim=-1)
    mixed = (attention @ v).transpose(1, 2).flatten(2)
    trace.keep(x, normed, query, key, value, attention, mixed)
    y = linear("attn.out_proj", mixed)
    trace.output.append(
        y + linear("mlp.c_proj", _activation(config, linear("mlp.c_fc", norm("ln_2", y)))) if config.mlp else y
    )
    return trace.output[-1]


def image_tower(
    state: State, config: ClipConfig, pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, _Trace]:
    """pixels [B, 3, Y, X] in 0..1 -> embedding [B, E], not normalised, and every block's tensors.

    Sides that are not the model's own are multiples of the patch; positions are then resampled.
    """
    vision = config.vision
    shift = torch.tensor(mean, dtype=pixels.dtype).reshape(1, 3, 1, 1)
    scale = torch.tensor(std, dtype=pixels.dtype).reshape(1, 3, 1, 1)
    weight, bias = state["visual.conv1.weight"], state.get("visual.conv1.bias")
    patches = F.conv2d((pixels - shift) / scale, weight, bias, stride=vision.patch_size)
    x = patches.flatten(2).transpose(1, 2)
    if vision.class_token:
        x = torch.cat([state["visual.class_embedding"].expand(len(pixels), 1, -1), x], dim=1)
    x = x + _positions(state["visual.positional_embedding"], vision, (patches.shape[2], patches.shape[3]))
    if vision.pre_norm:
        x = F.layer_norm(x, (vision.width,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"], vision.eps)
    return image_tail(state, config, x, vision.layers)


def image_tail(state: State, config: ClipConfig, x: torch.Tensor, count: int) -> tuple[torch.Tensor, _Trace]:
    """Tokens [B, T, D] before the last ``count`` blocks -> embedding [B, E], not normalised, and their tensors."""
    vision, trace = config.vision, _Trace()
    for index in range(vision.layers - count, vision.layers):
        x = _block(state, f"visual.transformer.resblocks.{index}", x, vision, None, trace)
    if vision.pooler is not None:
        x = _pooler(state, vision.pooler, x, trace)[:, 0]
        if vision.pooler.mlp:
            return x, trace
    elif vision.pool == "class":
        x = x[:, 0]
    elif vision.norm_after_pool:
        x = x[:, int(vision.class_token) :].mean(dim=1)
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"], vision.eps)
    if x.ndim == 3:
        x = x[:, int(vision.class_token) :].mean(dim=1)
    return x @ state["visual.proj"], trace


def _positions(positions: torch.Tensor, vision: VisionConfig, grid: tuple[int, int]) -> torch.Tensor:
    """[T, D] for a grid: bicubic, pixel centres, not antialiased; the class token keeps its own."""
    if grid == vision.grid:
        return positions
    prefix = int(vision.class_token)
    picture = positions[prefix:].T.reshape(1, -1, *vision.grid)
    resampled = F.interpolate(picture, grid, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([positions[:prefix], resampled.flatten(2)[0].T])


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
    vision, last = config.vision, slice(-layers, None)
    query = torch.stack([_row(vision, q) for q in trace.query[last]], dim=1).detach()
    keys, values = (torch.stack([_behind_class(vision, t) for t in x[last]], 1) for x in (trace.key, trace.value))
    attention = [
        _behind_class(vision, _row(vision, a.transpose(1, 2))[..., None])[..., 0] for a in trace.attention[last]
    ]
    gradients = []
    for prompt in range(len(text)):
        # Images of a batch do not interact: the gradient of the sum is each image's own gradient.
        per_block = torch.autograd.grad(similarity[:, prompt].sum(), trace.mixed[last], retain_graph=True)
        gradients.append(torch.stack([_row(vision, g, torch.sum) for g in per_block], dim=1))
    return {
        "embedding": unit.detach(),
        "similarity": similarity.detach(),
        "class_query": query,
        "keys": keys.detach(),
        "spatial_weights": _spatial_weights(query, keys.detach()),
        "values": values.detach(),
        "class_attention": torch.stack(attention, dim=1).detach(),
        "gradient": torch.stack(gradients, dim=1).detach(),
    }


def _row(vision: VisionConfig, x: torch.Tensor, over: Callable[..., torch.Tensor] = torch.mean) -> torch.Tensor:
    """What explains of the rows of one attention, [B, T, ...] -> [B, ...]: the first, or all patches' together."""
    return over(x[:, int(vision.class_token) :], dim=1) if vision.pool == "average" else x[:, 0]


def _behind_class(vision: VisionConfig, x: torch.Tensor) -> torch.Tensor:
    """[..., T, C], zeros in the place of a class token that the tower does not have."""
    return x if vision.class_token else F.pad(x, (0, 0, 1, 0))


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
    mask = torch.zeros(length, length, dtype=x.dtype)
    if text.causal:
        mask = torch.full_like(mask, float("-inf")).triu(1)
    if text.pool == "appended":
        x, mask = _append(state, text, tokens, x)
    trace = _Trace()
    for index in range(text.layers):
        x = _block(state, f"transformer.resblocks.{index}", x, text, mask, trace)
    x = F.layer_norm(x, (text.width,), state["ln_final.weight"], state["ln_final.bias"], text.eps)
    end = tokens.argmax(dim=-1) if text.end_id is None else (tokens == text.end_id).int().argmax(dim=-1)
    end = end if text.pool == "end" else torch.full_like(end, x.shape[1] - 1)
    return _text_head(state, text, x[torch.arange(len(tokens)), end]), end, trace


def _text_head(state: State, text: TextConfig, row: torch.Tensor) -> torch.Tensor:
    """Output rows [P, D] after the last LayerNorm -> unit embeddings [P, E]."""
    if not text.projection:
        return F.normalize(row, dim=-1)
    if "text_projection.weight" in state:
        row = F.linear(row, state["text_projection.weight"], state.get("text_projection.bias"))
    else:
        row = row @ state["text_projection"]
    return F.normalize(row, dim=-1)


def text_tail(state: State, config: ClipConfig, x: torch.Tensor, count: int) -> torch.Tensor:
    """Tokens [P, L, D] before the last ``count`` blocks of a causal tower, each text's last the one that is read, ->
    unit embedding [P, E]."""
    text, trace = config.text, _Trace()
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)
    for index in range(text.layers - count, text.layers):
        x = _block(state, f"transformer.resblocks.{index}", x, text, mask, trace)
    x = F.layer_norm(x, (text.width,), state["ln_final.weight"], state["ln_final.bias"], text.eps)
    return _text_head(state, text, x[:, -1])


def _append(
    state: State, text: TextConfig, tokens: torch.Tensor, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """CoCa's text with its class token behind, and the mask [P, 1, T, T], place by place as its weights know it."""
    count, length = tokens.shape
    own = state["cls_emb"] + state["positional_embedding"][length]
    mask = torch.zeros(count, 1, length + 1, length + 1, dtype=x.dtype)
    for row in range(count):
        for seen in range(length + 1):
            if seen > 0 and tokens[row, seen - 1] == text.pad_id:
                mask[row, 0, :, seen] = float("-inf")
            mask[row, 0, :seen, seen] = float("-inf")
    return torch.cat([x, own.expand(count, 1, -1)], dim=1), mask
