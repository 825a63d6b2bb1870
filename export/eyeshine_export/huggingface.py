"""Hugging Face CLIP keys to open_clip keys."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from eyeshine.errors import ExportError

__all__ = ["from_huggingface"]

_WHOLE = {
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}
_PREFIXES = {
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # their spelling
    "vision_model.post_layernorm.": "visual.ln_post.",
    "text_model.final_layer_norm.": "ln_final.",
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
    """
    result: dict[str, torch.Tensor] = {}
    packed: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        if key.endswith("position_ids"):  # a buffer of old releases, not a weight
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
                raise ExportError("checkpoint has a weight that Hugging Face CLIP does not have", got=key)
        else:
            prefix = next((old for old in _PREFIXES if key.startswith(old)), None)
            if prefix is None:
                raise ExportError("checkpoint has a weight that Hugging Face CLIP does not have", got=key)
            result[_PREFIXES[prefix] + key.removeprefix(prefix)] = tensor
    for key, parts in packed.items():
        if parts.keys() != set("qkv"):
            raise ExportError("checkpoint lacks a projection", got=f"{key} from {sorted(parts)}", allowed="q, k, v")
        result[key] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return result
