"""What a CLIP is made of, read from an open_clip model configuration; what is not supported is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eyeshine.errors import ExportError, UnsupportedError

__all__ = ["Activation", "ClipConfig", "TextConfig", "TowerConfig", "VisionConfig", "parse_config", "read_config"]

Activation = Literal["gelu", "quick_gelu"]
OPEN_CLIP_EPS = 1e-5

_SUPPORTED = "open_clip ViT towers with a class token (OpenAI, LAION, DataComp, MetaCLIP, DFN)"
# Features that change the arithmetic and are not built yet. Each is refused when its value differs from the default.
_BLOCK_FEATURES = {
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_VISION_FEATURES = {
    "attentional_pool": False,
    "pool_type": "tok",
    "act_kwargs": None,
    "timm_model_name": None,
    **_BLOCK_FEATURES,
}
_TEXT_FEATURES = {
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
    "tokenizer_kwargs": None,
    "embed_cls": False,
    "no_causal_mask": False,
    "proj_bias": False,
    "proj_type": "linear",
    "act_kwargs": None,
    **_BLOCK_FEATURES,
}
# Settings that are read, that change nothing here, or that belong to a tower which is refused above.
_SHARED_SETTINGS = {
    "layers", "width", "mlp_ratio", "ls_init_value", "final_ln_after_pool", "pool_type", "output_tokens", "norm_kwargs",
    "block_type",
}  # fmt: skip
_VISION_SETTINGS = _SHARED_SETTINGS | {
    "head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre", "pos_embed_type", "attn_pooler_queries",
    "attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
    "timm_drop_path",
}  # fmt: skip
_TEXT_SETTINGS = _SHARED_SETTINGS | {
    "context_length", "vocab_size", "heads", "pad_id", "eos_id", "hf_model_pretrained", "hf_proj_type",
    "hf_pooler_type",
}  # fmt: skip
_NAMES = {
    "attentional_pool": "attention pool",
    "timm_model_name": "timm image tower",
    "hf_model_name": "Hugging Face text tower",
    "hf_tokenizer_name": "foreign tokenizer",
}


@dataclass(frozen=True)
class TowerConfig:
    """What both towers share.

    Attributes:
        width: D.
        layers: number of blocks.
        heads: H, a divisor of the width.
        activation: of the MLP.
        eps: of every LayerNorm.
    """

    width: int
    layers: int
    heads: int
    activation: Activation
    eps: float

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ExportError(f"{name} must be positive", got=getattr(self, name))
        if self.width % self.heads:
            raise ExportError("heads do not divide the width", got=f"width {self.width}, heads {self.heads}")


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """An image tower.

    Attributes:
        image_size: (height, width) in pixels.
        patch_size: (height, width) in pixels.
        pre_norm: whether there is a LayerNorm before the first block.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    pre_norm: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.grid) < 1:
            raise ExportError("image holds no whole patch", got=f"image {self.image_size}, patch {self.patch_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across); open_clip drops pixels that do not fill a patch."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """A causal text tower whose output row is the end-of-text token.

    Attributes:
        context_length: tokens at most, start and end included.
        vocab_size: number of token ids.
        end_id: id of the end-of-text token; None where it is the largest id of a text (argmax pooling).
    """

    context_length: int
    vocab_size: int
    end_id: int | None


@dataclass(frozen=True)
class ClipConfig:
    """Both towers and the joint space of dimension ``embed_dim``."""

    name: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ExportError("embed_dim must be positive", got=self.embed_dim)


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Read an open_clip model configuration (JSON, or a hub file with ``model_cfg``); return its name and content."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportError("model configuration cannot be read", got=f"{path}: {error}") from error
    if isinstance(raw, dict) and isinstance(raw.get("model_cfg"), dict):
        raw = {**raw["model_cfg"], "preprocess_cfg": raw.get("preprocess_cfg", {})}
    if not isinstance(raw, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= raw.keys():
        raise ExportError(
            "not an open_clip model configuration",
            got=str(path),
            allowed="a JSON object with embed_dim, vision_cfg and text_cfg",
        )
    return path.stem, raw


def parse_config(name: str, raw: Mapping[str, Any]) -> ClipConfig:
    """Read a configuration's content.

    Raises:
        UnsupportedError: a feature that is not supported, named.
        ExportError: values that do not fit together.
    """
    if "multimodal_cfg" in raw:
        raise UnsupportedError(f"{name}: CoCa is not supported yet", allowed=_SUPPORTED)
    activation: Activation = "quick_gelu" if raw.get("quick_gelu", False) else "gelu"
    try:
        return ClipConfig(
            name=name,
            embed_dim=int(raw["embed_dim"]),
            vision=_vision(name, raw["vision_cfg"], activation),
            text=_text(name, raw["text_cfg"], activation),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ExportError(
            f"{name}: a value of the model configuration is of no use", got=f"{type(error).__name__}: {error}"
        ) from error


def _vision(name: str, cfg: Mapping[str, Any], activation: Activation) -> VisionConfig:
    layers = cfg.get("layers", 12)
    if isinstance(layers, list | tuple):
        raise UnsupportedError(f"{name}: ResNet image towers are not supported yet", allowed=_SUPPORTED)
    _refuse(name, "vision_cfg", cfg, _VISION_FEATURES, _VISION_SETTINGS)
    width = int(cfg.get("width", 768))
    return VisionConfig(
        width=width,
        layers=int(layers),
        heads=width // int(cfg.get("head_width", 64)),
        activation=activation,
        eps=_eps(name, cfg),
        image_size=_pair(cfg.get("image_size", 224)),
        patch_size=_pair(cfg.get("patch_size", 16)),
        pre_norm=not cfg.get("no_ln_pre", False),
    )


def _text(name: str, cfg: Mapping[str, Any], activation: Activation) -> TextConfig:
    _refuse(name, "text_cfg", cfg, _TEXT_FEATURES, _TEXT_SETTINGS)
    pool = cfg.get("pool_type", "argmax")
    if pool not in ("argmax", "eos"):
        raise UnsupportedError(f"{name}: text_cfg pool_type is not supported yet", got=pool, allowed="argmax, eos")
    return TextConfig(
        width=int(cfg.get("width", 512)),
        layers=int(cfg.get("layers", 12)),
        heads=int(cfg.get("heads", 8)),
        activation=activation,
        eps=_eps(name, cfg),
        context_length=int(cfg.get("context_length", 77)),
        vocab_size=int(cfg.get("vocab_size", 49408)),
        end_id=int(cfg.get("eos_id", 2)) if pool == "eos" else None,
    )


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
