"""A tower's arrays, taken from an open_clip state dictionary.

Three exact rewritings are done here, once, so that no graph has a special case for them:
mean and std go into the patch embedding (it has no padding), the patch embedding's bias and the class embedding go
into the positional embedding, and LayerScale goes into the projection before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eyeshine.errors import ExportError
from eyeshine_export.config import TextConfig, TowerConfig, VisionConfig
from eyeshine_export.graph.ops import Array

__all__ = ["BlockWeights", "StateDict", "TextWeights", "VisionWeights", "text_weights", "vision_weights"]

StateDict = Mapping[str, Array]


@dataclass(frozen=True)
class BlockWeights:
    """One pre-LN block; matrices are [out, in]. LayerScale is folded into ``out`` and ``project``.

    ``int8`` says that a graph keeps the matrices in 8 bits.
    """

    name: str
    norm1: tuple[Array, Array]
    query: tuple[Array, Array]
    key: tuple[Array, Array]
    value: tuple[Array, Array]
    out: tuple[Array, Array]
    norm2: tuple[Array, Array]
    expand: tuple[Array, Array]
    project: tuple[Array, Array]
    int8: bool = False


@dataclass(frozen=True)
class TextWeights:
    """The text tower; ``projection`` is [D, E]."""

    token_embedding: Array
    positions: Array
    blocks: tuple[BlockWeights, ...]
    final_norm: tuple[Array, Array]
    projection: Array


@dataclass(frozen=True)
class VisionWeights:
    """The image tower.

    Attributes:
        patch: [D, patch height * patch width * 3], columns ordered (channel, row, column), mean/std folded in.
        class_token: [D], its position added.
        positions: [N, D], the patch embedding's bias added.
        pre_norm: LayerNorm before the first block, or None.
        projection: [D, E].
    """

    patch: Array
    class_token: Array
    positions: Array
    pre_norm: tuple[Array, Array] | None
    blocks: tuple[BlockWeights, ...]
    final_norm: tuple[Array, Array]
    projection: Array


class _Reader:
    """Takes arrays out of a state dictionary by name, checks their shapes, and knows which ones it took."""

    def __init__(self, state: StateDict, prefix: str) -> None:
        self.state, self.prefix = state, prefix
        self.taken: set[str] = set()

    def _find(self, key: str) -> Array:
        if key not in self.state:
            raise ExportError(
                "checkpoint and configuration disagree: a weight is missing",
                got=f"no {key}",
                cure="name the configuration that this checkpoint was trained with",
            )
        return self.state[key]

    def __call__(self, name: str, *shape: int) -> Array:
        key = f"{self.prefix}{name}"
        array = self._find(key)
        self.taken.add(key)
        if array.shape != shape:
            raise ExportError(
                "checkpoint and configuration disagree: a weight has another shape",
                got=f"{key} {array.shape}",
                allowed=str(shape),
                cure="name the configuration that this checkpoint was trained with",
            )
        return array

    def rows(self, name: str) -> int:
        """Rows of a matrix whose height the configuration leaves open."""
        return int(self._find(f"{self.prefix}{name}").shape[0])

    def finish(self, *elsewhere: str) -> None:
        """Refuse weights that nothing took: they change what the model computes. ``elsewhere``: beginnings of names."""
        for key in self.state:
            if key.startswith(self.prefix) and key not in self.taken and not key.startswith(elsewhere):
                raise ExportError(
                    "checkpoint and configuration disagree: the configuration has no place for a weight",
                    got=f"{key} {self.state[key].shape}",
                    cure="name the configuration that this checkpoint was trained with",
                )

    def has(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.state

    def pair(self, name: str, *shape: int) -> tuple[Array, Array]:
        return self(f"{name}.weight", *shape), self(f"{name}.bias", shape[0])


def vision_weights(
    state: StateDict, config: VisionConfig, embed_dim: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> VisionWeights:
    """Take the image tower's arrays; ``mean`` and ``std`` are the model's normalisation of RGB in 0..1."""
    read = _Reader(state, "visual.")
    width, (patch_h, patch_w) = config.width, config.patch_size
    grid_h, grid_w = config.grid
    conv = read("conv1.weight", width, 3, patch_h, patch_w)
    scale: Array = np.asarray(std, conv.dtype).reshape(1, 3, 1, 1)
    shift: Array = np.asarray(mean, conv.dtype).reshape(1, 3, 1, 1)
    bias = -(conv * (shift / scale)).sum(axis=(1, 2, 3), dtype=np.float64).astype(conv.dtype)
    positions = read("positional_embedding", 1 + grid_h * grid_w, width)
    weights = VisionWeights(
        patch=(conv / scale).reshape(width, -1),
        class_token=read("class_embedding", width) + positions[0],
        positions=positions[1:] + bias,
        pre_norm=read.pair("ln_pre", width) if config.pre_norm else None,
        blocks=_blocks(read, "visual", config),
        final_norm=read.pair("ln_post", width),
        projection=read("proj", width, embed_dim),
    )
    read.finish()
    return weights


def text_weights(state: StateDict, config: TextConfig, embed_dim: int) -> TextWeights:
    """Take the text tower's arrays."""
    read = _Reader(state, "")
    if read.has("text_projection.weight"):
        projection = read("text_projection.weight", embed_dim, config.width).T
    else:
        projection = read("text_projection", config.width, embed_dim)
    weights = TextWeights(
        token_embedding=read("token_embedding.weight", config.vocab_size, config.width),
        positions=read("positional_embedding", config.context_length, config.width),
        blocks=_blocks(read, "text", config),
        final_norm=read.pair("ln_final", config.width),
        projection=projection,
    )
    read.finish("visual.", "logit_scale", "logit_bias", "attn_mask", "text.attn_mask")
    return weights


def _blocks(read: _Reader, tower: str, config: TowerConfig) -> tuple[BlockWeights, ...]:
    deepest = f"transformer.resblocks.{config.layers}.ln_1.weight"
    if read.has(deepest):
        raise ExportError(
            "checkpoint and configuration disagree: the checkpoint has more blocks",
            got=f"{read.prefix}{deepest}",
            allowed=f"{config.layers} blocks",
            cure="name the configuration that this checkpoint was trained with",
        )
    return tuple(_block(read, tower, index, config.width) for index in range(config.layers))


def _block(read: _Reader, tower: str, index: int, width: int) -> BlockWeights:
    at = f"transformer.resblocks.{index}"
    packed_weight = read(f"{at}.attn.in_proj_weight", 3 * width, width)
    packed_bias = read(f"{at}.attn.in_proj_bias", 3 * width)
    hidden = read.rows(f"{at}.mlp.c_fc.weight")
    return BlockWeights(
        name=f"{tower}.{index}",
        norm1=read.pair(f"{at}.ln_1", width),
        query=(packed_weight[:width], packed_bias[:width]),
        key=(packed_weight[width : 2 * width], packed_bias[width : 2 * width]),
        value=(packed_weight[2 * width :], packed_bias[2 * width :]),
        out=_scaled(read, f"{at}.ls_1.gamma", read.pair(f"{at}.attn.out_proj", width, width)),
        norm2=read.pair(f"{at}.ln_2", width),
        expand=read.pair(f"{at}.mlp.c_fc", hidden, width),
        project=_scaled(read, f"{at}.ls_2.gamma", read.pair(f"{at}.mlp.c_proj", width, hidden)),
    )


def _scaled(read: _Reader, gamma_name: str, pair: tuple[Array, Array]) -> tuple[Array, Array]:
    """Fold LayerScale, where the block has one: gamma * (W x + b) = (gamma W) x + gamma b."""
    if not read.has(gamma_name):
        return pair
    weight, bias = pair
    gamma = read(gamma_name, weight.shape[0])
    return gamma[:, None] * weight, gamma * bias
