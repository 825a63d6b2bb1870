"""The way back from a bundle: its initialisers as an open_clip state dictionary.

The inverse of ``weights.py``, as far as there is one. mean and std are taken out of the patch embedding, its bias out
of the positions. The class token keeps its position (that of the state is zero) and blocks keep their LayerScale
folded in: another state dictionary of the same function, to float32 rounding.
"""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import onnx_ir as ir
import torch

from eyeshine.bundle import Bundle
from eyeshine.errors import ExportError
from eyeshine_export.graph.ops import Array

__all__ = ["state_of"]

_PAIRS = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "out": "attn.out_proj",
    "expand": "mlp.c_fc",
    "project": "mlp.c_proj",
}


def state_of(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The weights of both towers under open_clip's names, float32, without LayerScale.

    Raises:
        ExportError: the bundle's weights are not those of the checkpoint any more (precision other than fp32).
    """
    manifest, model = bundle.manifest, bundle.manifest.model
    if model.pool != "class":
        raise ExportError("weights of this tower cannot be taken back", got=f"pool {model.pool}", allowed="class")
    if manifest.precision != "fp32":
        raise ExportError("weights of this bundle are rounded", got=manifest.precision, allowed="a bundle in fp32")
    arrays = {**_initialisers(bundle, "image"), **_initialisers(bundle, "text")}
    state = {
        **_image_ends(arrays, model.mean, model.std, model.patch_size),
        "token_embedding.weight": arrays["text.token_embedding"],
        "positional_embedding": arrays["text.positions"],
        "text_projection": arrays["text.projection"],
        "logit_scale": np.asarray(math.log(model.logit_scale)),
    }
    if model.logit_bias is not None:
        state["logit_bias"] = np.asarray(model.logit_bias)
    for ours, theirs in (("visual.final_norm", "visual.ln_post"), ("visual.pre_norm", "visual.ln_pre"),
                         ("text.final_norm", "ln_final")):  # fmt: skip
        state |= _pair(arrays, ours, theirs)
    for tower, prefix in (("visual", "visual."), ("text", "")):
        for index in count():
            if f"{tower}.{index}.query.weight" not in arrays:
                break
            state |= _block(arrays, f"{tower}.{index}", f"{prefix}transformer.resblocks.{index}")
    return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in state.items()}


def _initialisers(bundle: Bundle, graph: str) -> dict[str, Array]:
    values = ir.load(bundle.folder / bundle.graph(graph).file).graph.initializers
    return {name: value.const_value.numpy() for name, value in values.items() if value.const_value is not None}


def _image_ends(
    arrays: dict[str, Array], mean: tuple[float, ...], std: tuple[float, ...], patch_size: tuple[int, int]
) -> dict[str, Array]:
    """Patch embedding, class token and positions: what ``vision_weights`` folded, taken apart."""
    patch = arrays["visual.patch"].astype(np.float64)
    scaled = patch.reshape(len(patch), 3, *patch_size)
    scale, shift = (np.asarray(x, np.float64).reshape(1, 3, 1, 1) for x in (std, mean))
    class_token = arrays["visual.class_token"].reshape(-1)
    positions = arrays["visual.positions"] + (scaled * shift).sum(axis=(1, 2, 3))
    return {
        "visual.conv1.weight": scaled * scale,
        "visual.class_embedding": class_token,
        "visual.positional_embedding": np.concatenate([np.zeros_like(class_token)[None], positions]),
        "visual.proj": arrays["visual.projection"],
    }


def _block(arrays: dict[str, Array], ours: str, theirs: str) -> dict[str, Array]:
    state: dict[str, Array] = {}
    for kind in ("weight", "bias"):
        packed = [arrays[f"{ours}.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"{theirs}.attn.in_proj_{kind}"] = np.concatenate(packed)
    for part, name in _PAIRS.items():
        state |= _pair(arrays, f"{ours}.{part}", f"{theirs}.{name}")
    return state


def _pair(arrays: dict[str, Array], ours: str, theirs: str) -> dict[str, Array]:
    """Weight and bias under another name; nothing where the tower has none."""
    kinds = [kind for kind in ("weight", "bias") if f"{ours}.{kind}" in arrays]
    return {f"{theirs}.{kind}": arrays[f"{ours}.{kind}"] for kind in kinds}
