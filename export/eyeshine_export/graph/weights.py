"""A tower's arrays, taken from an open_clip state dictionary.

Four exact rewritings are done here, once, so that no graph has a special case for them:
mean and std go into the patch embedding (it has no padding), the patch embedding's bias and the class embedding go
into the positional embedding, LayerScale goes into the projection before it, and a pooler's learned query goes through
its LayerNorm and projection: it is a constant of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyeshine.errors import ExportError
from eyeshine_export.config import PoolerConfig, TextConfig, TowerConfig, VisionConfig
from eyeshine_export.graph.ops import Array
from eyeshine_export.graph.state import Reader, StateDict

__all__ = [
    "AttentionWeights", "BlockWeights", "PoolerWeights", "StateDict", "TextWeights", "VisionWeights", "text_weights",
    "vision_weights",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttentionWeights:
    """Keys, values and output of an attention; matrices are [out, in].

    ``norm1`` comes before keys and values. ``int8`` says that a graph keeps the matrices in 8 bits.
    """

    name: str
    norm1: tuple[Array, Array]
    key: tuple[Array, Array]
    value: tuple[Array, Array]
    out: tuple[Array, Array]
    int8: bool = False


@dataclass(frozen=True, kw_only=True)
class BlockWeights(AttentionWeights):
    """One pre-LN block. LayerScale is folded into ``out`` and ``project``."""

    query: tuple[Array, Array]
    norm2: tuple[Array, Array]
    expand: tuple[Array, Array]
    project: tuple[Array, Array]


@dataclass(frozen=True)
class PoolerWeights:
    """An attention with a learned query.

    Attributes:
        query: [D], normalised and projected, not scaled: the same for every image.
        block: the attention, with the MLP after it where the pooler has one; its query is in ``query`` already.
    """

    query: Array
    block: AttentionWeights


@dataclass(frozen=True)
class TextWeights:
    """The text tower.

    Attributes:
        token_embedding: [V, D].
        positions: [L, D].
        projection: [D, E]; the identity where the tower has none.
        projection_bias: [E], or None.
        appended: [D], the token behind the text, its position added; or None.
    """

    token_embedding: Array
    positions: Array
    blocks: tuple[BlockWeights, ...]
    final_norm: tuple[Array, Array]
    projection: Array
    projection_bias: Array | None = None
    appended: Array | None = None


@dataclass(frozen=True)
class VisionWeights:
    """The image tower.

    Attributes:
        patch: [D, patch height * patch width * 3], columns ordered (channel, row, column), mean/std folded in.
        class_token: [D], its position added; None in a tower without one.
        positions: [N, D], the patch embedding's bias added.
        pre_norm: LayerNorm before the first block, or None.
        final_norm: before the projection; where a pooler's row is the embedding itself, that of the tokens before it.
        projection: [D, E], D of the pooler where there is one; the identity where its row is the embedding.
        pooler: of a tower that is read by a learned query.
    """

    patch: Array
    class_token: Array | None
    positions: Array
    pre_norm: tuple[Array, Array] | None
    blocks: tuple[BlockWeights, ...]
    final_norm: tuple[Array, Array]
    projection: Array
    pooler: PoolerWeights | None = None


def vision_weights(
    state: StateDict, config: VisionConfig, embed_dim: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> VisionWeights:
    """Take the image tower's arrays; ``mean`` and ``std`` are the model's normalisation of RGB in 0..1."""
    read = Reader(state, "visual.")
    width, (patch_h, patch_w) = config.width, config.patch_size
    grid_h, grid_w = config.grid
    conv = read("conv1.weight", width, 3, patch_h, patch_w)
    scale: Array = np.asarray(std, conv.dtype).reshape(1, 3, 1, 1)
    shift: Array = np.asarray(mean, conv.dtype).reshape(1, 3, 1, 1)
    bias = -(conv * (shift / scale)).sum(axis=(1, 2, 3), dtype=np.float64).astype(conv.dtype)
    if read.has("conv1.bias"):
        bias = bias + read("conv1.bias", width)
    prefix = int(config.class_token)
    positions = read("positional_embedding", prefix + grid_h * grid_w, width)
    pooler = None if config.pooler is None else _pooler(read, config.pooler, width)
    end_width = width if config.pooler is None else config.pooler.width
    bare = config.pooler is not None and config.pooler.mlp  # what its MLP yields is the embedding
    weights = VisionWeights(
        patch=(conv / scale).reshape(width, -1),
        class_token=read("class_embedding", width) + positions[0] if config.class_token else None,
        positions=positions[prefix:] + bias,
        pre_norm=read.pair("ln_pre", width) if config.pre_norm else None,
        blocks=_blocks(read, "visual", config),
        final_norm=pooler.block.norm1 if bare and pooler else read.pair("ln_post", end_width),
        projection=np.eye(embed_dim, dtype=conv.dtype) if bare else read("proj", end_width, embed_dim),
        pooler=pooler,
    )
    read.finish()
    return weights


def text_weights(state: StateDict, config: TextConfig, embed_dim: int) -> TextWeights:
    """Take the text tower's arrays."""
    read = Reader(state, "")
    projection_bias = None
    if not config.projection:
        projection = np.eye(config.width, embed_dim, dtype=read("ln_final.weight", config.width).dtype)
    elif read.has("text_projection.weight"):
        projection = read("text_projection.weight", embed_dim, config.width).T
        projection_bias = read("text_projection.bias", embed_dim) if read.has("text_projection.bias") else None
    else:
        projection = read("text_projection", config.width, embed_dim)
    appended = config.pool == "appended"
    positions = read("positional_embedding", config.context_length + appended, config.width)
    weights = TextWeights(
        token_embedding=read("token_embedding.weight", config.vocab_size, config.width),
        positions=positions[: config.context_length],
        blocks=_blocks(read, "text", config),
        final_norm=read.pair("ln_final", config.width),
        projection=projection,
        projection_bias=projection_bias,
        appended=read("cls_emb", config.width) + positions[-1] if appended else None,
    )
    read.finish("visual.", "logit_scale", "logit_bias", "attn_mask", "text.attn_mask")
    return weights


def _blocks(read: Reader, tower: str, config: TowerConfig) -> tuple[BlockWeights, ...]:
    deepest = f"transformer.resblocks.{config.layers}.ln_1.weight"
    if read.has(deepest):
        raise ExportError(
            "checkpoint and configuration disagree: the checkpoint has more blocks",
            got=f"{read.prefix}{deepest}",
            allowed=f"{config.layers} blocks",
            cure="name the configuration that this checkpoint was trained with",
        )
    return tuple(_block(read, tower, index, config.width) for index in range(config.layers))


def _block(read: Reader, tower: str, index: int, width: int) -> BlockWeights:
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


def _scaled(read: Reader, gamma_name: str, pair: tuple[Array, Array]) -> tuple[Array, Array]:
    """Fold LayerScale, where the block has one: gamma * (W x + b) = (gamma W) x + gamma b."""
    if not read.has(gamma_name):
        return pair
    weight, bias = pair
    gamma = read(gamma_name, weight.shape[0])
    return gamma[:, None] * weight, gamma * bias


def _pooler(read: Reader, config: PoolerConfig, context: int) -> PoolerWeights:
    """A pooler in open_clip's keys; ``context`` is the width of the tokens. Its first query alone is read."""
    at, width = "attn_pool", config.width
    matrices, biases = _packed(read, f"{at}.attn", width, context), read(f"{at}.attn.in_proj_bias", 3 * width)
    (query, query_bias), key, value = zip(matrices, biases.reshape(3, width), strict=True)
    latent = read(f"{at}.query", read.rows(f"{at}.query"), width)[0].astype(np.float64)
    if read.has(f"{at}.ln_q.weight"):
        scale, shift = read.pair(f"{at}.ln_q", width)
        latent = (latent - latent.mean()) / np.sqrt(latent.var() + config.eps) * scale + shift
    block = AttentionWeights(
        name="visual.pool",
        norm1=read.pair(f"{at}.ln_k", context),
        key=key,
        value=value,
        out=read.pair(f"{at}.attn.out_proj", width, width),
    )
    if config.mlp:
        hidden = read.rows(f"{at}.mlp.c_fc.weight")
        block = BlockWeights(
            **vars(block),
            query=(query, query_bias),
            norm2=read.pair(f"{at}.ln_2", width),
            expand=read.pair(f"{at}.mlp.c_fc", hidden, width),
            project=read.pair(f"{at}.mlp.c_proj", width, hidden),
        )
    return PoolerWeights((latent @ query.T + query_bias).astype(query.dtype), block)


def _packed(read: Reader, at: str, width: int, context: int) -> list[Array]:
    """Query, key and value matrices: one where the tokens have the pooler's width, three where they have another."""
    if context == width:
        return list(read(f"{at}.in_proj_weight", 3 * width, width).reshape(3, width, width))
    shapes = {"q": width, "k": context, "v": context}
    return [read(f"{at}.{part}_proj_weight", width, inside) for part, inside in shapes.items()]
