"""Tiny random towers of other kinds, SigLIP, CoCa and CLIPA, and their signals from open_clip's and timm's own modules.

What modules do not show is written out beside them, and that it is the same model is checked against ``encode_image``.
Nothing here knows ``eyeshine_export`` but for the making of sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from eyeshine_export.checkpoint import to_open_clip
from eyeshine_export.compat import import_open_clip
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.source import Source
from oracle import cosines, spatial_weights
from tiny import EPS, VOCABULARY, tiny_config, tiny_model, word_tokens

Signals = dict[str, np.ndarray]


def register_siglip(name: str, **sizes: Any) -> str:
    """Make timm know a small SigLIP tower; returns the name that open_clip builds it by."""
    import_open_clip()
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False}

    def build(pretrained: bool = False, **kwargs: Any) -> Any:
        passed = {key: kwargs[key] for key in ("num_classes", "global_pool") if key in kwargs}
        norm = partial(torch.nn.LayerNorm, eps=EPS)
        model = VisionTransformer(**{**settings, "norm_layer": norm, **sizes, **passed})
        model.default_cfg = {}
        return model

    build.__name__ = name
    register_model(build)
    return name


SIGLIP_NAME = register_siglip("vit_eyeshine_siglip_32")
WIDE_NAME = register_siglip(
    "vit_eyeshine_siglip_wide", img_size=(16, 40), embed_dim=48, num_heads=3, act_layer="gelu_tanh", mlp_ratio=1.5
)
_SIGLIP_TEXT = {
    "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "hf_tokenizer_name": "timm/none",
    "tokenizer_kwargs": {"clean": "canonicalize"}, "act_kwargs": {"approximate": "tanh"},
}  # fmt: skip


def siglip_config(name: str = SIGLIP_NAME, size: Any = 32, width: int = 32, **text: Any) -> dict[str, Any]:
    """open_clip's configuration of a SigLIP with that image tower."""
    raw = tiny_config(text={**_SIGLIP_TEXT, **text}, embed_dim=width, custom_text=True, init_logit_bias=-10)
    vision = {"image_size": size, "timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
    return {**raw, "vision_cfg": vision}


def coca_config(vision: Mapping[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:
    """open_clip's configuration of a CoCa."""
    attends = {"attentional_pool": True, "attn_pooler_heads": 3, "attn_pooler_queries": 5, "output_tokens": True}
    text = {"embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 12, "vocab_size": len(VOCABULARY), "width": 32, "heads": 2, "layers": 1}
    raw = tiny_config({**attends, **(vision or {})}, text, custom_text=True, multimodal_cfg=decoder)
    return {**raw, **overrides}


def clipa_config(vision: Mapping[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:
    """open_clip's configuration of a CLIPA: mean over the patches, text pooled at the last place."""
    pooled = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    text = {"pool_type": "last", "no_causal_mask": True}
    return tiny_config({**pooled, **(vision or {})}, text, **overrides)


TOWERS: dict[str, dict[str, Any]] = {
    "siglip": siglip_config(),
    "siglip, wide image, tanh": siglip_config(WIDE_NAME, [16, 40], 48, act_kwargs={}),
    "siglip without a text projection": siglip_config(proj_type="none", proj_bias=False),
    "coca": coca_config(),
    "coca, quickgelu": coca_config({"ls_init_value": 0.1}, quick_gelu=True),
    "coca as wide as its tower": coca_config({"attn_pooler_heads": 2}, embed_dim=32),
    "clipa": clipa_config(),
    "mean of normalised tokens": clipa_config({"final_ln_after_pool": False, "no_ln_pre": False}, quick_gelu=True),
    "mean, wide image": clipa_config({"image_size": [16, 40], "ls_init_value": 0.1}),
}


def tower_source(raw: Mapping[str, Any], seed: int = 0) -> Source:
    """What export needs of ``tiny_model(raw, seed)``."""
    state = {name: value.detach() for name, value in tiny_model(raw, seed).state_dict().items()}
    config = parse_config("tiny", raw)
    return Source(config, to_open_clip(state).state, "random weights", "CC0-1.0", tokens=word_tokens())


def tower_signals(
    raw: Mapping[str, Any], pixels: torch.Tensor, text: torch.Tensor, layers: int, seed: int = 0
) -> Signals:
    """The signals of a tower, float64; pixels normalised, gradients by autograd."""
    model = tiny_model(raw, seed).double()
    if "multimodal_cfg" in raw:
        return _coca(model, pixels, text)
    return _siglip(model, pixels, text) if raw.get("custom_text") else _mean(model, pixels, text, layers)


def _siglip(model: Any, pixels: torch.Tensor, text: torch.Tensor) -> Signals:
    """Hooks on timm's pooler: what enters ``proj`` is the output of its attention."""
    pool, kept = model.visual.trunk.attn_pool, {}
    hooks = [
        pool.q.register_forward_hook(lambda _, __, out: kept.update(query=out)),
        pool.kv.register_forward_hook(
            lambda _, __, out: kept.update(key=out.chunk(2, -1)[0], value=out.chunk(2, -1)[1])
        ),
        pool.proj.register_forward_pre_hook(lambda _, given: kept.update(mixed=given[0])),
    ]
    embedding = model.encode_image(pixels)
    for hook in hooks:
        hook.remove()
    padded = [F.pad(kept[name], (0, 0, 1, 0)) for name in ("key", "value")]
    attention = _attention(kept["query"], kept["key"], pool.num_heads)
    return _collect(
        embedding, text, [kept["query"][:, 0]], *([t] for t in padded), [F.pad(attention[:, :, 0], (1, 0))],
        [kept["mixed"]], lambda g: g[:, 0],
    )  # fmt: skip


def _coca(model: Any, pixels: torch.Tensor, text: torch.Tensor) -> Signals:
    """open_clip's pooler hides its attention: it is written out from its weights, behind its own LayerNorm."""
    visual, kept = model.visual, {}
    pool = visual.attn_pool
    hook = pool.ln_k.register_forward_hook(lambda _, __, out: kept.update(tokens=out))
    whole = model.encode_image(pixels, normalize=False)
    hook.remove()
    attn, tokens = pool.attn, kept["tokens"]
    packed = attn.in_proj_weight
    matrices = packed.chunk(3) if packed is not None else [attn.q_proj_weight, attn.k_proj_weight, attn.v_proj_weight]
    latent = pool.ln_q(pool.query).expand(len(pixels), -1, -1)
    query, key, value = (
        F.linear(t, w, b)
        for t, w, b in zip((latent, tokens, tokens), matrices, attn.in_proj_bias.chunk(3), strict=True)
    )
    attention = _attention(query, key, attn.num_heads)
    heads = value.unflatten(-1, (attn.num_heads, -1))
    mixed = torch.einsum("bhij,bjhd->bihd", attention, heads).flatten(2)
    embedding = visual.ln_post(attn.out_proj(mixed))[:, 0] @ visual.proj
    torch.testing.assert_close(embedding, whole, rtol=1e-12, atol=1e-12)
    return _collect(embedding, text, [query[:, 0]], [key], [value], [attention[:, :, 0]], [mixed], lambda g: g[:, 0])


def _mean(model: Any, pixels: torch.Tensor, text: torch.Tensor, layers: int) -> Signals:
    """All rows of every block; the explaining row is that of the patches together."""
    from oracle import trace

    visual = model.visual
    whole, (embedding, kept) = model.encode_image(pixels), (None, trace(model, pixels)[1])
    last = visual.transformer.resblocks[-1]
    y = kept["input"][-1] + last.ls_1(last.attn.out_proj(kept["mixed"][-1]))
    x = y + last.ls_2(last.mlp(last.ln_2(y)))
    pooled = visual.ln_post(x[:, 1:].mean(1)) if visual.final_ln_after_pool else visual.ln_post(x)[:, 1:].mean(1)
    embedding = pooled @ visual.proj
    torch.testing.assert_close(embedding, whole, rtol=1e-12, atol=1e-12)
    blocks = range(len(kept["mixed"]))[-layers:]
    return _collect(
        embedding, text,
        [kept["query"][i][:, 1:].mean(1) for i in blocks],
        [kept["key"][i] for i in blocks],
        [kept["value"][i] for i in blocks],
        [kept["attention"][i][:, :, 1:].mean(2) for i in blocks],
        [kept["mixed"][i] for i in blocks],
        lambda g: g[:, 1:].sum(1),
    )  # fmt: skip


def _attention(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    q, k = (t.unflatten(-1, (heads, -1)) for t in (query, key))
    return torch.einsum("bihd,bjhd->bhij", q, k).div(q.shape[-1] ** 0.5).softmax(-1)


def _collect(embedding, text, query, keys, values, attention, mixed, row) -> Signals:  # type: ignore[no-untyped-def]
    similarity = cosines(embedding, text)
    gradient = [
        torch.stack([row(g) for g in torch.autograd.grad(column.sum(), mixed, retain_graph=True)], 1)
        for column in similarity.T
    ]
    queries, tokens = torch.stack(query, 1).detach(), torch.stack(keys, 1).detach()
    result = {
        "embedding": F.normalize(embedding, dim=-1),
        "similarity": similarity,
        "class_query": queries,
        "keys": tokens,
        "spatial_weights": torch.from_numpy(spatial_weights(queries.numpy(), tokens.numpy())),
        "values": torch.stack(values, 1),
        "class_attention": torch.stack(attention, 1),
        "gradient": torch.stack(gradient, 1),
    }
    return {name: tensor.detach().numpy() for name, tensor in result.items()}
