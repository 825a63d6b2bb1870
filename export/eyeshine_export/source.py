"""Where a model comes from: an open_clip name, a configuration file, a local checkpoint, a pretrained tag, the hub."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from eyeshine.errors import ExportError, ExportUsageError
from eyeshine.preprocess import Preprocess
from eyeshine_export.checkpoint import Checkpoint, read_checkpoint
from eyeshine_export.compat import import_open_clip
from eyeshine_export.config import Activation, ClipConfig
from eyeshine_export.open_clip_config import parse_config, read_config
from eyeshine_export.words import Tokens, read_tokenizer

__all__ = ["CLIP_VOCABULARY", "OPENAI_MEAN", "OPENAI_STD", "Normalisation", "Source", "Tokens", "resolve"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_VOCABULARY = 49408
_UNKNOWN_LICENCE = "not stated; see where the weights come from"


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of RGB in 0..1."""

    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ExportError("mean and std must be three numbers, std positive", got=f"{self.mean}, {self.std}")


@dataclass(frozen=True)
class Source:
    """Everything that export needs of a model.

    Attributes:
        config: both towers.
        state: weights in open_clip's keys, float32.
        origin: for the manifest: tag, or file name and key layout.
        licence: of the weights.
        normalisation: mean and std.
        preprocess: resizing.
        tokens: None for CLIP's own tokenizer.
    """

    config: ClipConfig
    state: Mapping[str, torch.Tensor]
    origin: str
    licence: str = _UNKNOWN_LICENCE
    normalisation: Normalisation = field(default_factory=Normalisation)
    preprocess: Preprocess | None = None
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        if self.preprocess is None:
            object.__setattr__(self, "preprocess", Preprocess(self.config.vision.image_size))
        if self.tokens is None and _foreign(self.config):
            named = self.config.text.tokenizer
            raise ExportError(
                "a foreign tokenizer is not there",
                got=f"vocab_size {self.config.text.vocab_size}" + (f", tokenizer {named}" if named else ""),
                allowed=f"CLIP's own tokenizer with {CLIP_VOCABULARY} ids, or a tokenizer.json",
                cure="put tokenizer.json beside the configuration or name it with --tokenizer",
            )


def resolve(
    model: str,
    *,
    pretrained: str | None = None,
    checkpoint: Path | None = None,
    tokens: Tokens | Path | None = None,
    licence: str | None = None,
) -> Source:
    """Find a model's configuration and weights.

    Args:
        model: open_clip's name, ``hf-hub:owner/name``, or the path of a model configuration (JSON).
        pretrained: open_clip's tag; downloads where there is a network.
        checkpoint: a local file instead.
        tokens: the tokenizer, or its tokenizer.json, where the model does not use CLIP's own; by default the one
            beside a configuration file, or the one that the configuration names, downloaded as the weights are.
        licence: of the weights, where the exporter does not know it.

    Raises:
        ExportError: no such model or tag, both or neither of tag and file, weights that do not fit the configuration.
        UnsupportedError: a tower or feature that is not supported, named.
    """
    hub = model.startswith("hf-hub:")
    if (pretrained is not None) + (checkpoint is not None) + hub != 1:
        raise ExportUsageError(
            "name the weights once",
            got=f"{model}, pretrained {pretrained}, checkpoint {checkpoint}",
            allowed="--pretrained TAG (downloads), --checkpoint FILE, or a model hf-hub:owner/name by itself",
        )
    fetched = _fetch_from_hub(model) if hub else None
    name, raw = (
        _configuration(model) if fetched is None else (model.removeprefix("hf-hub:"), read_config(fetched[0])[1])
    )
    config = parse_config(name, raw)
    preprocess = raw.get("preprocess_cfg") or {}
    if not isinstance(preprocess, dict):
        raise ExportError("preprocess_cfg must be an object", got=repr(preprocess))
    if fetched is not None:
        loaded, origin = read_checkpoint(fetched[1]), model
    elif checkpoint is not None:
        loaded = read_checkpoint(checkpoint)
        origin = f"{checkpoint.name} ({loaded.layout} keys)"
        preprocess = {**_usual_preprocess(name), **preprocess}
        _warn_of_unknown_activation(config, loaded)
    else:
        assert pretrained is not None
        tag = _pretrained_config(name, pretrained)
        wanted: Activation = "quick_gelu" if tag.get("quick_gelu") else "gelu"
        _check_activation(config, wanted, f"tag {pretrained}")  # before the download, not after it
        loaded = replace(read_checkpoint(_download(tag, pretrained, config)), activation=wanted)
        preprocess = {**tag, **preprocess}
        origin = f"open_clip tag {pretrained}"
        licence = licence or ("MIT" if pretrained == "openai" else None)
    _check_activation(config, loaded.activation, f"{loaded.layout} weights")
    return Source(
        config, loaded.state, origin, licence or _UNKNOWN_LICENCE, _normalisation(preprocess),
        _preprocess(config, preprocess), _tokens(model, config, tokens, download=checkpoint is None),
    )  # fmt: skip


def _foreign(config: ClipConfig) -> bool:
    return config.text.tokenizer is not None or config.text.vocab_size != CLIP_VOCABULARY


def _tokens(model: str, config: ClipConfig, given: Tokens | Path | None, *, download: bool) -> Tokens | None:
    """The tokenizer of a model that does not use CLIP's own."""
    beside, named = Path(model).parent / "tokenizer.json", config.text.tokenizer
    if given is None and _foreign(config) and model.endswith(".json") and beside.is_file():
        given = beside
    if given is None and named is not None and download:
        given = _fetch(named, "tokenizer.json", "put its tokenizer.json into a folder and name it with --tokenizer")
        _fetch(named, "tokenizer_config.json", "put it beside tokenizer.json and name that with --tokenizer")
    return read_tokenizer(given, config.text) if isinstance(given, Path) else given


def _configuration(model: str) -> tuple[str, dict[str, Any]]:
    if model.endswith(".json") or Path(model).is_file():
        return read_config(Path(model))
    open_clip = import_open_clip()
    raw = open_clip.get_model_config(model)
    if raw is None:
        close = [name for name in open_clip.list_models() if model.lower()[:6] in name.lower()][:8]
        raise ExportUsageError(
            "unknown model",
            got=model,
            allowed=", ".join(close) or "a name from open_clip.list_models()",
            cure="or name an open_clip model configuration (JSON)",
        )
    return model, raw


def _pretrained_config(name: str, tag: str) -> dict[str, Any]:
    open_clip = import_open_clip()
    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        known = open_clip.list_pretrained_tags_by_model(name)
        raise ExportUsageError(
            f"{name} has no pretrained tag {tag!r}", allowed=", ".join(known) or "none for this model"
        )
    return config


def _download(tag_config: dict[str, Any], tag: str, config: ClipConfig) -> Path:
    open_clip = import_open_clip()
    try:
        return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:  # hub and urllib raise their own trees
        raise ExportError(
            f"weights of {tag!r} could not be downloaded",
            got=f"{type(error).__name__}: {error}",
            cure=f"fetch the file where there is a network, then eyeshine export {config.name} --checkpoint FILE",
        ) from error


def _fetch_from_hub(model: str) -> tuple[Path, Path]:
    """Configuration and weights of a hub repository."""
    owner_name = model.removeprefix("hf-hub:")
    cure = "fetch open_clip_config.json and the weights, then eyeshine export CONFIG.json --checkpoint FILE"
    return _fetch(owner_name, "open_clip_config.json", cure), _fetch(owner_name, None, cure)


def _fetch(owner_name: str, file: str | None, cure: str) -> Path:
    """A file of a hub repository; its weights where none is named."""
    import_open_clip()
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        return Path(download_pretrained_from_hf(owner_name, filename=file))
    except Exception as error:  # the hub raises its own tree
        raise ExportError(
            f"hf-hub:{owner_name} could not be downloaded", got=f"{type(error).__name__}: {error}", cure=cure
        ) from error


def _check_activation(config: ClipConfig, wants: Activation | None, weights: str) -> None:
    """Weights trained with one activation under a configuration with another drift silently; that is an error."""
    has = config.vision.activation
    if wants is None or has == wants:
        return
    quick = wants == "quick_gelu"
    raise ExportError(
        f"these weights were trained with {wants}, the configuration has {has}",
        got=f"{weights} under {config.name}",
        cure=f"use {config.name}-quickgelu" if quick else f"use {config.name.removesuffix('-quickgelu')}",
    )


def _warn_of_unknown_activation(config: ClipConfig, loaded: Checkpoint) -> None:
    """open_clip's own files do not say which activation they were trained with; say what is assumed."""
    quick = f"{config.name}-quickgelu"
    if loaded.activation is None and quick in import_open_clip().list_models():
        warnings.warn(
            f"the checkpoint does not say which activation it was trained with; gelu is assumed, as in {config.name}. "
            f"OpenAI, MetaCLIP and DFN weights need {quick}.",
            stacklevel=3,
        )


def _usual_preprocess(name: str) -> dict[str, Any]:
    """What all pretrained tags of a registered model agree on; nothing where they do not, or there are none."""
    open_clip = import_open_clip()
    tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    keys = ("mean", "std", "interpolation", "resize_mode")
    usual = [{key: tag[key] for key in keys if key in tag} for tag in tags]
    return usual[0] if usual and all(entry == usual[0] for entry in usual) else {}


def _normalisation(preprocess: Mapping[str, Any]) -> Normalisation:
    def triple(key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        given = preprocess.get(key) or default
        try:
            # As in open_clip, one number stands for all three channels.
            value = tuple(float(v) for v in (given if isinstance(given, list | tuple) else [given] * 3))
        except (TypeError, ValueError):
            value = ()
        if len(value) != 3:
            raise ExportError(f"preprocess_cfg.{key} must be three numbers", got=given)
        return value[0], value[1], value[2]

    return Normalisation(triple("mean", OPENAI_MEAN), triple("std", OPENAI_STD))


def _preprocess(config: ClipConfig, preprocess: Mapping[str, Any]) -> Preprocess:
    mode, interpolation = preprocess.get("resize_mode", "shortest"), preprocess.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise ExportError(
            "preprocessing is not supported yet",
            got=f"resize_mode {mode!r}, interpolation {interpolation!r}",
            allowed="shortest or squash; bicubic or bilinear",
        )
    return Preprocess(config.vision.image_size, mode, interpolation)
