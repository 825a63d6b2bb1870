"""Checkpoint files to an open_clip state dictionary of float32 arrays; the layout is recognised by its keys.

Nothing here runs code from a file: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.config import Activation
from eyeshine_export.huggingface import PROBE, from_huggingface
from eyeshine_export.open_clip_config import read_config
from eyeshine_export.timm_tower import from_timm

__all__ = ["Checkpoint", "Layout", "read_checkpoint", "recognise", "to_open_clip"]

Layout = Literal["open_clip", "openai", "huggingface"]
State = dict[str, torch.Tensor]
_ARCHIVE_CURE = (
    'convert it once, where you trust the file: python -c "import torch; '
    "torch.save(torch.jit.load('IN.pt', map_location='cpu').state_dict(), 'OUT.pt')\""
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights of both towers in open_clip's keys, float32 on the CPU.

    Attributes:
        state: the weights.
        layout: what the file's keys were.
        activation: what the weights were trained with, where that is known.
    """

    state: State
    layout: Layout
    activation: Activation | None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a local checkpoint, .safetensors or .pt/.pth/.bin.

    Raises:
        ExportError: missing, damaged, unsafe, or with keys of no known layout.
        UnsupportedError: a layout or tower that is known and not supported, named.
    """
    if not path.is_file():
        raise ExportError("checkpoint is missing", got=str(path), cure="name a .safetensors or .pt file")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return to_open_clip(state, path)


def to_open_clip(state: State, path: Path | None = None) -> Checkpoint:
    """Recognise a state dictionary's layout and bring it to open_clip's keys, float32."""
    state = _strip(state)
    if "visual.trunk.attn_pool.latent" in state:
        state = from_timm(state)
    layout = recognise(state)
    activation: Activation | None = None
    if layout == "huggingface":
        activation = _huggingface_activation(path, "gelu_pytorch_tanh" if PROBE in state else "quick_gelu")
        state = from_huggingface(state)
    elif layout == "open_clip":
        activation = _open_clip_activation(path)
    elif layout == "openai":
        activation = "quick_gelu"
        state = {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}
    weights = {k: v.float() for k, v in state.items() if v.is_floating_point()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ExportError("checkpoint holds weights that are not finite", got=name, cure="use another checkpoint")
    return Checkpoint(weights, layout, activation)


def recognise(state: Mapping[str, torch.Tensor]) -> Layout:
    """Name the layout of a state dictionary's keys.

    Raises:
        UnsupportedError: ResNet, other towers of timm than SigLIP's or Hugging Face towers inside open_clip keys.
        ExportError: keys of no layout that is known.
    """
    known = {
        "visual.layer1.0.conv1.weight": "ResNet image tower",
        "visual.attn_pool_contrastive.query": "second attention pool",
    }
    for key, what in known.items():
        if key in state:
            raise UnsupportedError(f"{what} is not supported yet", got=f"a checkpoint with {key}")
    for key in state:
        if key.startswith("visual.trunk."):
            raise UnsupportedError("timm image tower is not supported yet", got=f"a checkpoint with {key}")
        # By now "text." is taken off; open_clip's own text towers have nothing else below "transformer.".
        if key.startswith("transformer.") and not key.startswith("transformer.resblocks."):
            raise UnsupportedError("HF text tower is not supported yet", got=f"a checkpoint with {key}")
    if "visual.conv1.weight" in state:
        return "openai" if "input_resolution" in state else "open_clip"
    if "vision_model.embeddings.patch_embedding.weight" in state:
        return "huggingface"
    raise ExportError(
        "checkpoint has keys of no known layout",
        got=", ".join(sorted(state)[:4]) + ", ...",
        allowed="open_clip, OpenAI or Hugging Face CLIP with both towers",
    )


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: State = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ExportError("checkpoint cannot be read", got=f"{path.name}: {error}") from error
    return state


def _read_torch(path: Path) -> State:
    if _is_torchscript(path):
        raise ExportError(
            "checkpoint is a TorchScript archive (OpenAI's own format), which holds code",
            got=path.name,
            cure=_ARCHIVE_CURE,
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            "checkpoint is damaged or holds more than weights, and is not loaded",
            got=f"{path.name}: {str(error).splitlines()[0]}",
            cure="save its state_dict alone, as .safetensors",
        ) from error
    except Exception as error:  # torch.load raises RuntimeError, EOFError, KeyError ... for damaged files
        raise ExportError("checkpoint cannot be read", got=f"{path.name}: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ExportError("checkpoint holds no state dictionary", got=type(loaded).__name__)
    return {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def _is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip file with a folder of code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:  # older files of torch are none; damaged ones are reported when they are loaded
        return False


def _strip(state: State) -> State:
    """Without the prefixes of wrappers (DistributedDataParallel, CustomTextCLIP) and CoCa's writer of captions."""
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    inside_text = (
        "transformer.",
        "token_embedding.",
        "positional_embedding",
        "ln_final.",
        "text_projection",
        "cls_emb",
    )
    return {
        key.removeprefix("text.") if key.removeprefix("text.").startswith(inside_text) else key: value
        for key, value in state.items()
        if not key.startswith("text_decoder.")
    }


def _open_clip_activation(path: Path | None) -> Activation | None:
    """The activation that ``open_clip_config.json`` beside a checkpoint names; None where there is no such file."""
    beside = None if path is None else path.parent / "open_clip_config.json"
    if beside is None or not beside.is_file():
        return None
    return "quick_gelu" if read_config(beside)[1].get("quick_gelu", False) else "gelu"


def _huggingface_activation(path: Path | None, default: str) -> Activation | None:
    """The activation that ``config.json`` beside a Hugging Face checkpoint names; the default where it is silent.

    Hugging Face's CLIP has quick_gelu as its default and its SigLIP gelu_pytorch_tanh, so a configuration without the
    key means that.
    """
    known: dict[str, Activation] = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
    beside = None if path is None else path.parent / "config.json"
    if beside is None or not beside.is_file():
        return known[default]
    try:
        raw: dict[str, Any] = json.loads(beside.read_text("utf-8"))
        named = {str(raw.get(part, {}).get("hidden_act", default)) for part in ("vision_config", "text_config")}
    except (OSError, ValueError, AttributeError) as error:  # ValueError: not UTF-8, not JSON
        raise ExportError("config.json beside the checkpoint cannot be read", got=f"{beside}: {error}") from error
    if len(named) > 1 or not named <= known.keys():
        raise UnsupportedError(
            "activation is not supported yet", got=", ".join(sorted(named)), allowed=", ".join(known)
        )
    return known[named.pop()]
