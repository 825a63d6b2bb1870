"""Hugging Face's CLIP and SigLIP: keys to open_clip's, and SigLIP's configuration.

SigLIP's activation is not open_clip's (tanh in both towers), so its own config.json is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.config import Activation, ClipConfig, PoolerConfig, TextConfig, VisionConfig

__all__ = ["PROBE", "SIGLIP_PREPROCESS", "from_huggingface", "siglip_config"]

SIGLIP_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash", "interpolation": "bicubic"}

_WHOLE = {
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.patch_embedding.bias": "visual.conv1.bias",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.head.attention.in_proj_weight": "visual.attn_pool.attn.in_proj_weight",
    "vision_model.head.attention.in_proj_bias": "visual.attn_pool.attn.in_proj_bias",
}
PROBE = "vision_model.head.probe"
"""What tells SigLIP from CLIP."""
_PREFIXES = {
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # their spelling
    "vision_model.post_layernorm.": "visual.ln_post.",
    "text_model.final_layer_norm.": "ln_final.",
}
_SIGLIP_PREFIXES = {
    "vision_model.post_layernorm.": "visual.attn_pool.ln_k.",
    "vision_model.head.attention.out_proj.": "visual.attn_pool.attn.out_proj.",
    "vision_model.head.layernorm.": "visual.attn_pool.ln_2.",
    "vision_model.head.mlp.fc1.": "visual.attn_pool.mlp.c_fc.",
    "vision_model.head.mlp.fc2.": "visual.attn_pool.mlp.c_proj.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.head.": "text_projection.",
}
_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_TOWERS = {"vision_model": "visual.transformer.resblocks", "text_model": "transformer.resblocks"}
_LAYER = re.compile(r"^(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")


def from_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename, join query, key and value, and transpose both projections to open_clip's [D, E].

    Raises:
        ExportError: a key that belongs to no known part, or a block without one of its three projections.
        UnsupportedError: SigLIP 2 for any size.
    """
    result: dict[str, torch.Tensor] = {}
    prefixes = _PREFIXES
    if PROBE in state:
        prefixes, result["visual.attn_pool.query"] = _SIGLIP_PREFIXES, state[PROBE][0]
        patches = state["vision_model.embeddings.patch_embedding.weight"]
        if patches.ndim != 4:
            raise UnsupportedError(
                "SigLIP 2 for any size (NaFlex) is not supported yet", got=f"patch embedding {list(patches.shape)}"
            )
    packed: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        if key.endswith("position_ids") or key == PROBE:  # the first is a buffer of old releases, not a weight
            continue
        if key in _WHOLE:
            result[_WHOLE[key]] = tensor
        elif key == "visual_projection.weight":
            result["visual.proj"] = tensor.T
        elif key == "text_projection.weight":
            result["text_projection"] = tensor.T
        elif match := _LAYER.match(key):
            tower, index, part, kind = match.groups()
            at = f"{_TOWERS[tower]}.{index}"
            if part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                packed.setdefault(f"{at}.attn.in_proj_{kind}", {})[part[10]] = tensor
            elif part in _IN_BLOCK:
                result[f"{at}.{_IN_BLOCK[part]}.{kind}"] = tensor
            else:
                raise ExportError("checkpoint has a weight that Hugging Face's model does not have", got=key)
        else:
            prefix = next((old for old in prefixes if key.startswith(old)), None)
            if prefix is None:
                raise ExportError("checkpoint has a weight that Hugging Face's model does not have", got=key)
            result[prefixes[prefix] + key.removeprefix(prefix)] = tensor
    for key, parts in packed.items():
        if parts.keys() != set("qkv"):
            raise ExportError("checkpoint lacks a projection", got=f"{key} from {sorted(parts)}", allowed="q, k, v")
        result[key] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return result


def siglip_config(name: str, raw: Mapping[str, Any]) -> ClipConfig:
    """Sizes from the config.json of a ``SiglipModel``; what it leaves out is as in transformers.

    Raises:
        UnsupportedError: an activation that is not built.
    """
    vision, text = (dict(raw.get(f"{part}_config") or {}) for part in ("vision", "text"))
    width, heads = int(vision.get("hidden_size", 768)), int(vision.get("num_attention_heads", 12))
    activation, eps = _activation(vision), float(vision.get("layer_norm_eps", 1e-6))
    image, patch = int(vision.get("image_size", 224)), int(vision.get("patch_size", 16))
    return ClipConfig(
        name=name,
        embed_dim=width,
        vision=VisionConfig(
            width=width,
            layers=int(vision.get("num_hidden_layers", 12)),
            heads=heads,
            activation=activation,
            eps=eps,
            image_size=(image, image),
            patch_size=(patch, patch),
            pre_norm=False,
            class_token=False,
            pool="latent",
            pooler=PoolerConfig(width, 1, heads, activation, eps, mlp=True),
        ),
        text=TextConfig(
            width=int(text.get("hidden_size", 768)),
            layers=int(text.get("num_hidden_layers", 12)),
            heads=int(text.get("num_attention_heads", 12)),
            activation=_activation(text),
            eps=float(text.get("layer_norm_eps", 1e-6)),
            context_length=int(text.get("max_position_embeddings", 64)),
            vocab_size=int(text.get("vocab_size", 32000)),
            end_id=None,
            pool="last",
            causal=False,
            pad_id=int(text.get("pad_token_id", 1)),
            tokenizer=name,
            clean="canonicalize",
        ),
    )


def _activation(section: Mapping[str, Any]) -> Activation:
    known: dict[str, Activation] = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}
    named = str(section.get("hidden_act", "gelu_pytorch_tanh"))
    if named not in known:
        raise UnsupportedError("activation is not supported yet", got=named, allowed=", ".join(known))
    return known[named]
