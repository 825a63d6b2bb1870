"""Tiny random CLIPs: open_clip configurations, open_clip's own models, export sources and bundles.

Every parameter is perturbed, LayerNorm scales, biases and LayerScale included, so that a term that is left out shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyeshine_export.compat import import_open_clip
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.source import Source, Tokens
from eyeshine_export.write import ExportOptions, export_bundle

EPS = float(np.float32(1e-5))
"""LayerNorm's eps as ONNX stores it, a float32 attribute; given to float64 oracles as well."""
WORDS = "a the of and photo red green blue small big car dog cat tree road house sky left right"
VOCABULARY = ("[pad]", "[unknown]", "[spare]", *WORDS.split(" "), "[start]", "[end]")


def tiny_config(
    vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None, **overrides: Any
) -> dict[str, Any]:
    """An open_clip model configuration; ``vision`` and ``text`` override parts of its sections."""
    vision_cfg = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 4}
    text_cfg = {"context_length": 12, "vocab_size": len(VOCABULARY), "width": 32, "heads": 2, "layers": 2}
    norm = {"norm_kwargs": {"eps": EPS}}
    return {
        "embed_dim": 24,
        "vision_cfg": {**vision_cfg, **norm, **(vision or {})},
        "text_cfg": {**text_cfg, **norm, **(text or {})},
        **overrides,
    }


def tiny_model(raw: Mapping[str, Any], seed: int = 0) -> Any:
    """open_clip's own model in evaluation mode, float32, with every parameter perturbed."""
    open_clip = import_open_clip()
    arguments = {key: value for key, value in raw.items() if key not in ("custom_text", "preprocess_cfg")}
    kind = open_clip.CustomTextCLIP if raw.get("custom_text") else open_clip.CLIP
    kind = open_clip.CoCa if "multimodal_cfg" in raw else kind
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**arguments).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if name.endswith("gamma"):  # LayerScale starts near zero and would hide its block
                parameter.copy_(0.7 + 0.3 * noise)
            elif parameter.ndim == 1:
                parameter.add_(0.3 * noise)
            elif parameter.ndim > 1:
                parameter.add_(0.1 * noise)
    return model


def word_tokens() -> Tokens:
    """A word-level tokenizer over ``VOCABULARY``; the end token has the largest id, as CLIP's has."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    ids = {word: index for index, word in enumerate(VOCABULARY)}
    backend = Tokenizer(WordLevel(ids, unk_token="[unknown]"))
    backend.pre_tokenizer = Whitespace()
    return Tokens(backend.to_str(), ids["[start]"], ids["[end]"], ids["[pad]"], ids["[unknown]"], "lower")


def tiny_source(raw: Mapping[str, Any] | None = None, seed: int = 0) -> Source:
    """What export needs of ``tiny_model(raw, seed)``, straight from its state dictionary."""
    raw = tiny_config() if raw is None else raw
    state = {name.removeprefix("text."): value.detach() for name, value in tiny_model(raw, seed).state_dict().items()}
    return Source(parse_config("tiny", raw), state, "random weights", "CC0-1.0", tokens=word_tokens())


def arrays(source: Source, dtype: type[np.floating] = np.float64) -> dict[str, np.ndarray]:
    """The weights as NumPy arrays."""
    return {name: tensor.numpy().astype(dtype) for name, tensor in source.state.items()}


def export_tiny(out: Path, layers: int | None = 3, force: bool = False) -> Path:
    """Export the default tiny model into ``out``."""
    groups = ("hidden", "words", "surgery", "pixels", "lrp", "rollout", "relevance", "legrad", "gradcam", "gates")
    export_bundle(tiny_source(), out, ExportOptions(layers=layers, force=force, signals=groups))
    return out


def write_config(path: Path, raw: Mapping[str, Any]) -> Path:
    """Write a model configuration as JSON."""
    path.write_text(json.dumps(raw), "utf-8")
    return path
