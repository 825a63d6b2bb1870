"""A model configuration, open_clip's or of Hugging Face's SigLIP, read; what is not supported is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyeshine.clean import Cleaning
from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.config import Activation, ClipConfig, PoolerConfig, TextConfig, VisionConfig
from eyeshine_export.huggingface import SIGLIP_PREPROCESS, siglip_config
from eyeshine_export.timm_tower import timm_config

__all__ = ["parse_config", "read_config"]

OPEN_CLIP_EPS = 1e-5

_SUPPORTED = "open_clip ViT towers (OpenAI, LAION, DataComp, MetaCLIP, DFN, CLIPA, CoCa) and SigLIP"
# Features that change the arithmetic and are not built yet. Each is refused when its value differs from the default.
_BLOCK_FEATURES = {
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_TEXT_FEATURES = {"hf_model_name": None, "tokenizer_mode": None, **_BLOCK_FEATURES}
# Settings that are read, that change nothing here, or that belong to a tower which is refused above.
_SHARED_SETTINGS = {
    "layers", "width", "mlp_ratio", "ls_init_value", "final_ln_after_pool", "pool_type", "output_tokens", "norm_kwargs",
    "act_kwargs", "block_type",
}  # fmt: skip
_VISION_SETTINGS = _SHARED_SETTINGS | {
    "head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre", "pos_embed_type", "attentional_pool",
    "attn_pooler_queries", "attn_pooler_heads", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj",
    "timm_proj_bias", "timm_drop", "timm_drop_path",
}  # fmt: skip
_TEXT_SETTINGS = _SHARED_SETTINGS | {
    "context_length", "vocab_size", "heads", "pad_id", "eos_id", "embed_cls", "no_causal_mask", "proj_bias",
    "proj_type", "hf_tokenizer_name", "tokenizer_kwargs", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
}  # fmt: skip
_TOKENIZER_SETTINGS = {"clean", "strip_sep_token"}
_CLEANINGS: dict[str, Cleaning] = {"whitespace": "whitespace", "canonicalize": "canonicalize", "lower": "clip"}
_NAMES = {"hf_model_name": "Hugging Face text tower"}


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Read an open_clip model configuration (JSON, or a hub file with ``model_cfg``); return its name and content.

    A config.json of Hugging Face's SigLIP is taken as well: its folder names the model.
    """
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportError("model configuration cannot be read", got=f"{path}: {error}") from error
    if isinstance(raw, dict) and isinstance(raw.get("model_cfg"), dict):
        raw = {**raw["model_cfg"], "preprocess_cfg": raw.get("preprocess_cfg", {})}
    if isinstance(raw, dict) and raw.get("model_type") == "siglip":
        return path.parent.name or path.stem, {**raw, "preprocess_cfg": SIGLIP_PREPROCESS}
    if not isinstance(raw, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= raw.keys():
        raise ExportError(
            "not an open_clip model configuration",
            got=str(path),
            allowed="a JSON object with embed_dim, vision_cfg and text_cfg, or config.json of a SiglipModel",
        )
    return path.stem, raw


def parse_config(name: str, raw: Mapping[str, Any]) -> ClipConfig:
    """Read a configuration's content.

    Raises:
        UnsupportedError: a feature that is not supported, named.
        ExportError: values that do not fit together.
    """
    quick = bool(raw.get("quick_gelu", False))
    try:
        if raw.get("model_type") == "siglip":
            return siglip_config(name, raw)
        embed_dim = int(raw["embed_dim"])
        return ClipConfig(
            name, embed_dim, _vision(name, raw["vision_cfg"], quick, embed_dim), _text(name, raw["text_cfg"], quick)
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ExportError(
            f"{name}: a value of the model configuration is of no use", got=f"{type(error).__name__}: {error}"
        ) from error


def _vision(name: str, cfg: Mapping[str, Any], quick: bool, embed_dim: int) -> VisionConfig:
    layers = cfg.get("layers", 12)
    if isinstance(layers, list | tuple):
        raise UnsupportedError(f"{name}: ResNet image towers are not supported yet", allowed=_SUPPORTED)
    _refuse(name, "vision_cfg", cfg, _BLOCK_FEATURES, _VISION_SETTINGS)
    if cfg.get("timm_model_name"):
        return _timm(name, cfg, embed_dim)
    pool, attends = cfg.get("pool_type", "tok"), cfg.get("attentional_pool", False)
    if attends not in (False, True) or pool not in (("tok",) if attends else ("tok", "avg")):
        raise UnsupportedError(
            f"{name}: pooling is not supported yet", got=f"attentional_pool {attends!r}, pool_type {pool!r}",
            allowed=_SUPPORTED,
        )  # fmt: skip
    width, activation = int(cfg.get("width", 768)), _activation(name, cfg, quick)
    pooler = None
    if attends:  # open_clip gives norm_kwargs to every LayerNorm but the pooler's
        pooler = PoolerConfig(embed_dim, 1, int(cfg.get("attn_pooler_heads", 8)), activation, OPEN_CLIP_EPS, mlp=False)
    return VisionConfig(
        width=width,
        layers=int(layers),
        heads=width // int(cfg.get("head_width", 64)),
        activation=activation,
        eps=_eps(name, cfg),
        image_size=_pair(cfg.get("image_size", 224)),
        patch_size=_pair(cfg.get("patch_size", 16)),
        pre_norm=not cfg.get("no_ln_pre", False),
        pool="latent" if attends else "class" if pool == "tok" else "average",
        norm_after_pool=pool == "avg" and bool(cfg.get("final_ln_after_pool", False)),
        pooler=pooler,
    )


def _timm(name: str, cfg: Mapping[str, Any], embed_dim: int) -> VisionConfig:
    """A tower of timm's: SigLIP's, whose embedding is the pooler's row as it is."""
    if (cfg.get("timm_pool"), cfg.get("timm_proj")) != ("map", "none"):
        raise UnsupportedError(f"{name}: timm image tower is not supported yet", got=cfg["timm_model_name"],
                               allowed="SigLIP's (timm_pool map, timm_proj none)")  # fmt: skip
    found = timm_config(name, str(cfg["timm_model_name"]))
    if found.width != embed_dim or found.image_size != _pair(cfg.get("image_size", 224)):
        raise ExportError(
            f"{name}: configuration and timm's {cfg['timm_model_name']} disagree",
            got=f"embed_dim {embed_dim}, image_size {cfg.get('image_size', 224)}",
            allowed=f"{found.width}, {found.image_size}",
        )
    return found


def _text(name: str, cfg: Mapping[str, Any], quick: bool) -> TextConfig:
    _refuse(name, "text_cfg", cfg, _TEXT_FEATURES, _TEXT_SETTINGS)
    pool, appended = cfg.get("pool_type", "argmax"), bool(cfg.get("embed_cls", False))
    if pool not in ("argmax", "eos", "last"):
        raise UnsupportedError(
            f"{name}: text_cfg pool_type is not supported yet", got=pool, allowed="argmax, eos, last"
        )
    if cfg.get("proj_type", "linear") not in ("linear", "none"):
        raise UnsupportedError(f"{name}: proj_type is not supported yet", got=cfg["proj_type"], allowed="linear, none")
    tokenizer = cfg.get("tokenizer_kwargs") or {}
    clean = tokenizer.get("clean", "whitespace")
    if not tokenizer.keys() <= _TOKENIZER_SETTINGS or clean not in _CLEANINGS:
        raise UnsupportedError(
            f"{name}: tokenizer_kwargs are not supported yet",
            got=tokenizer,
            allowed=", ".join(sorted(_TOKENIZER_SETTINGS)),
        )
    return TextConfig(
        width=int(cfg.get("width", 512)),
        layers=int(cfg.get("layers", 12)),
        heads=int(cfg.get("heads", 8)),
        activation=_activation(name, cfg, quick),
        eps=_eps(name, cfg),
        context_length=int(cfg.get("context_length", 77)),
        vocab_size=int(cfg.get("vocab_size", 49408)),
        end_id=int(cfg.get("eos_id", 2)) if pool == "eos" else None,
        pool="appended" if appended else "last" if pool == "last" else "end",
        causal=not cfg.get("no_causal_mask", False),
        pad_id=int(cfg.get("pad_id", 0)),
        tokenizer=cfg.get("hf_tokenizer_name"),
        clean=_CLEANINGS[clean],
        projection=cfg.get("proj_type", "linear") != "none",
        strip_end=bool(tokenizer.get("strip_sep_token", False)),
    )


def _activation(name: str, cfg: Mapping[str, Any], quick: bool) -> Activation:
    settings = cfg.get("act_kwargs") or {}
    if settings not in ({}, {"approximate": "none"}, {"approximate": "tanh"}) or (quick and settings):
        raise UnsupportedError(f"{name}: act_kwargs are not supported yet", got=settings, allowed="approximate: tanh")
    return "quick_gelu" if quick else "gelu_tanh" if settings.get("approximate") == "tanh" else "gelu"


def _refuse(
    name: str, section: str, cfg: Mapping[str, Any], features: Mapping[str, object], settings: set[str]
) -> None:  # fmt: skip
    for key, default in features.items():
        value = cfg.get(key, default)
        if value != default and not (default is None and not value):
            what = _NAMES.get(key, key)
            raise UnsupportedError(
                f"{name}: {what} is not supported yet", got=f"{section}.{key} = {value!r}", allowed=_SUPPORTED
            )
    if cfg.get("block_type") not in (None, "default"):
        raise UnsupportedError(f"{name}: block_type is not supported yet", got=cfg["block_type"], allowed=_SUPPORTED)
    for key in cfg:
        if key not in features and key not in settings:
            raise UnsupportedError(f"{name}: {key} is not known", got=f"{section}.{key} = {cfg[key]!r}")


def _eps(name: str, cfg: Mapping[str, Any]) -> float:
    norm = dict(cfg.get("norm_kwargs") or {})
    eps = float(norm.pop("eps", OPEN_CLIP_EPS))
    if norm:
        raise UnsupportedError(f"{name}: norm_kwargs are not supported yet", got=norm, allowed="eps")
    return eps


def _pair(value: object) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ExportError("image or patch size must be one or two positive integers", got=value)
    return int(pair[0]), int(pair[1])
