"""SigLIP's image tower as timm keeps it: its sizes from timm's registry, its keys to open_clip's.

Only timm's description of a model is read, built without its memory; weights never pass through its modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.compat import import_open_clip
from eyeshine_export.config import Activation, PoolerConfig, VisionConfig

__all__ = ["from_timm", "timm_config"]

TRUNK = "visual.trunk."
_PARTS = {
    "patch_embed.proj": "conv1",
    "norm": "attn_pool.ln_k",
    "attn_pool.proj": "attn_pool.attn.out_proj",
    "attn_pool.norm": "attn_pool.ln_2",
    "attn_pool.mlp.fc1": "attn_pool.mlp.c_fc",
    "attn_pool.mlp.fc2": "attn_pool.mlp.c_proj",
}
_IN_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv": "attn.in_proj",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)\.(weight|bias)$")


def timm_config(name: str, timm_name: str) -> VisionConfig:
    """Sizes of one of timm's SigLIP towers.

    Raises:
        UnsupportedError: another kind of tower.
        ExportError: timm knows no such model.
    """
    import_open_clip()  # timm imports torchvision as well
    import timm
    from timm.layers.attention_pool import AttentionPoolLatent
    from timm.models.vision_transformer import VisionTransformer

    try:
        with torch.device("meta"):
            trunk: Any = timm.create_model(timm_name, num_classes=0, global_pool="map")
    except (RuntimeError, TypeError) as error:
        raise ExportError(f"{name}: timm does not build this model", got=f"{timm_name}: {error}") from error
    pooler: Any = getattr(trunk, "attn_pool", None)
    plain = isinstance(trunk, VisionTransformer) and isinstance(pooler, AttentionPoolLatent)
    if not plain or trunk.num_prefix_tokens or pooler.latent_len != 1 or pooler.pos_embed is not None:
        raise UnsupportedError(f"{name}: timm image tower is not supported yet", got=timm_name, allowed="SigLIP's")
    attention = PoolerConfig(
        trunk.embed_dim, 1, pooler.num_heads, _activation(pooler.mlp.act), pooler.norm.eps, mlp=True
    )
    block = trunk.blocks[0]
    return VisionConfig(
        width=trunk.embed_dim,
        layers=len(trunk.blocks),
        heads=block.attn.num_heads,
        activation=_activation(block.mlp.act),
        eps=block.norm1.eps,
        image_size=tuple(trunk.patch_embed.img_size),
        patch_size=tuple(trunk.patch_embed.patch_size),
        pre_norm=False,
        class_token=False,
        pool="latent",
        pooler=attention,
    )


def _activation(module: torch.nn.Module) -> Activation:
    from timm.layers.activations import GELUTanh

    if isinstance(module, GELUTanh) or getattr(module, "approximate", "") == "tanh":
        return "gelu_tanh"
    if isinstance(module, torch.nn.GELU):
        return "gelu"
    raise UnsupportedError("activation is not supported yet", got=type(module).__name__, allowed="gelu, gelu_tanh")


def from_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename ``visual.trunk.*`` to the keys of open_clip's own tower with an attention pool; the rest stays.

    The trunk's last LayerNorm is that of the pooler's keys, ``attn_pool.ln_k``, and the latent is its query. What is of
    no known part keeps its name, so that it is refused where the configuration has no place for it.
    """
    result: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(TRUNK):
            result[key] = tensor
            continue
        inside = key.removeprefix(TRUNK)
        part, _, kind = inside.rpartition(".")
        if match := _BLOCK.match(inside):
            index, part, kind = match.groups()
            dot = "_" if part == "attn.qkv" else "."
            result[f"visual.transformer.resblocks.{index}.{_IN_BLOCK.get(part, part)}{dot}{kind}"] = tensor
        elif inside == "pos_embed":
            result["visual.positional_embedding"] = tensor[0]
        elif inside == "attn_pool.latent":
            result["visual.attn_pool.query"] = tensor[0]
        elif part not in ("attn_pool.q", "attn_pool.kv"):
            result[f"visual.{_PARTS.get(part, part)}.{kind}"] = tensor
    for kind in ("weight", "bias"):
        query, key_value = (state.get(f"{TRUNK}attn_pool.{part}.{kind}") for part in ("q", "kv"))
        if query is not None and key_value is not None:
            result[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat([query, key_value])
    return result
