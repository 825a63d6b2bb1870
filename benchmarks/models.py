"""Models to measure: random weights of a real shape. Speed does not depend on what the weights say."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.registry import MODELS
from eyeshine.bundle import default_bundle
from eyeshine.errors import BundleError
from eyeshine.manifest import Manifest
from eyeshine_export.compat import import_open_clip
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.source import Normalisation, Source, Tokens

__all__ = ["Configuration", "configuration"]

_SEED = 0
_LIBRARIES = ("torch", "open_clip_torch", "onnx", "onnxscript", "onnx_ir", "numpy")


@dataclass(frozen=True)
class Configuration:
    """What a measured model is made of.

    Attributes:
        name: of the model, in rows and file names.
        raw: an open_clip model configuration.
        tokens: the tokenizer where the model does not use CLIP's own.
    """

    name: str
    raw: Mapping[str, Any]
    tokens: Tokens | None = None

    def build(self) -> Any:
        """open_clip's model with seeded weights, in evaluation mode."""
        open_clip = import_open_clip()
        arguments = {key: value for key, value in self.raw.items() if key != "preprocess_cfg"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = open_clip.CLIP(**arguments).eval()
            _unsettle(model)
            return model

    def source(self, model: Any) -> Source:
        """What the exporter needs, with the weights of ``model``."""
        values = dict(self.raw.get("preprocess_cfg") or {})
        return Source(
            config=parse_config(self.name, self.raw),
            state={name: tensor.detach() for name, tensor in model.state_dict().items()},
            origin=f"random weights, seed {_SEED}",
            licence="none: random weights",
            normalisation=Normalisation(**{key: tuple(values[key]) for key in ("mean", "std") if key in values}),
            tokens=self.tokens,
        )

    def fingerprint(self) -> str:
        """Changes with everything that an export depends on."""
        import eyeshine_export

        digest = hashlib.sha256(json.dumps([self.name, self.raw], sort_keys=True).encode())
        digest.update(repr(self.tokens).encode())
        root, here = Path(eyeshine_export.__file__).parent, Path(__file__).parent
        ours = (here / "bare.py", here / "bundles.py", here / "models.py")
        for file in (
            *sorted(root.glob("*.py")),
            *sorted((root / "graph").glob("*.py")),
            *sorted((root / "groups").glob("*.py")),
            *ours,
        ):
            digest.update(file.name.encode() + file.read_bytes())
        digest.update(" ".join(importlib.metadata.version(library) for library in _LIBRARIES).encode())
        return digest.hexdigest()


def _unsettle(model: torch.nn.Module) -> None:
    """Move biases and LayerNorm scales off 0 and 1, where torch's exporter drops and shares them as constants."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)


def configuration(model: str) -> Configuration:
    """The configuration behind a short name.

    Raises:
        BundleError: ``roads`` is asked for and the package carries no bundle.
    """
    if model == "roads":
        return _roads()
    raw = import_open_clip().get_model_config(MODELS[model])
    if raw is None:
        raise RuntimeError(f"open_clip knows no configuration {MODELS[model]}")
    return Configuration(MODELS[model], raw)


def _roads() -> Configuration:
    """Random weights of the embedded model's shape: a plain encoder needs weights in open_clip's keys.

    The text tower is small and of no account here; its shape is the trainer's default.
    """
    from tokenizers import Tokenizer

    from eyeshine_export.roads.config import Shape

    folder = default_bundle()
    if not folder.is_dir():
        raise BundleError("the embedded bundle is missing", got="no models/roads in the package")
    manifest = Manifest.read(folder)
    model, words = manifest.model, manifest.tokenizer
    tokenizer = (folder / words.file).read_text("utf-8")
    raw: dict[str, Any] = Shape(embed=model.embed_dim).configuration()
    raw["quick_gelu"] = model.activation == "quick_gelu"
    raw["text_cfg"]["context_length"] = words.context_length
    raw["text_cfg"]["vocab_size"] = Tokenizer.from_str(tokenizer).get_vocab_size()
    raw["vision_cfg"] = {
        "image_size": list(model.image_size),
        "layers": model.layers,
        "width": model.width,
        "head_width": model.width // model.heads,
        "patch_size": list(model.patch_size),
    }
    tokens = Tokens(tokenizer, words.start, words.end, words.pad, words.unknown, words.clean)
    return Configuration("roads", raw, tokens)
