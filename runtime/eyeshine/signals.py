"""The named tensors that a graph takes and yields, with their dimensions.

Written once, used by the exporter that names the outputs and by the runtime that reads them.
Dimensions: B images, P prompts, E joint embedding, D width, H heads, N = h*w patches, T = 1 + N tokens,
K explained blocks in ascending order, S all blocks of the tower in ascending order, L text tokens, X, Y input pixels.
A signal that has a K axis comes with its own block range in the manifest, because a later graph may yield different
signals for different blocks. In a tower that is read by a learned query or a mean, "class token" stands for the row
that explains; where there is no class token, T keeps a row of zeros for it (docs/architecture.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONSTANT_COSINES", "MODIFIED", "SIGNALS", "Signal", "field_of", "group_of", "last_blocks"]


CONSTANT_COSINES: Final = 1e-6
"""``spatial_weights`` are zero where the cosines of an image differ by no more: those of equal keys differ by float32
rounding, up to 4e-7, and a min-max of that would be a map of pure noise."""

MODIFIED: Final = "single_head_"
"""Begins the names of signals that are not the deployed model's: its last blocks with one head each."""


@dataclass(frozen=True)
class Signal:
    """One named tensor.

    Attributes:
        name: the tensor's name in the graph.
        dims: the names of its axes.
        dtype: NumPy's name of its element type.
        meaning: what it holds, with units or range.
        group: the group of graphs that yields it (``eyeshine export --signals``); empty for what every bundle has.
        exact: whether a graph of more blocks yields another signal under the name, because the model differs.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    meaning: str
    group: str = ""
    exact: bool = False

    @property
    def per_block(self) -> bool:
        """Whether it has an axis over explained blocks."""
        return "K" in self.dims

    @property
    def per_text(self) -> bool:
        """Whether there is one for every image and text."""
        return self.dims[:2] == ("B", "P")


_ALL = (
    Signal("pixels", ("B", "3", "Y", "X"), "float32", "raw RGB in 0..1; mean and std are inside the graph"),
    Signal("text", ("P", "E"), "float32", "text vectors in the joint space, of any length"),
    Signal("target", ("P", "E"), "float32", "vectors whose dot product with the embedding is the explained score"),
    Signal("tokens", ("P", "L"), "int64", "token ids, start ... end, padded"),
    Signal("embedding", ("B", "E"), "float32", "image embedding, L2-normalised"),
    Signal("text_embedding", ("P", "E"), "float32", "text embedding, L2-normalised"),
    Signal("similarity", ("B", "P"), "float32", "cosine of image and text, -1..1, without logit scale"),
    Signal("class_query", ("B", "K", "D"), "float32", "query of the class token, heads concatenated, not scaled"),
    Signal("keys", ("B", "K", "T", "D"), "float32", "keys of all tokens, heads concatenated"),
    Signal("values", ("B", "K", "T", "D"), "float32", "values of all tokens, heads concatenated"),
    Signal(
        "spatial_weights",
        ("B", "K", "N"),
        "float32",
        "cos(class query, key) of the patches, min-max over them: 0..1, all 0 where the cosines are constant",
    ),
    Signal("class_attention", ("B", "K", "H", "T"), "float32", "attention row of the class token, sums to 1 over T"),
    Signal("gradient", ("B", "P", "K", "D"), "float32", "d cosine / d O[class token], O before the output projection"),
    Signal("queries", ("B", "K", "N", "D"), "float32", "queries of the patches, as class_query", "queries"),
    *(
        Signal(f"{MODIFIED}{name}", dims, "float32", f"{meaning}, of the model with single heads", "single_head", True)
        for name, dims, meaning in (
            ("similarity", ("B", "P"), "cosine of image and text"),
            ("values", ("B", "K", "T", "D"), "values"),
            ("spatial_weights", ("B", "K", "N"), "spatial_weights"),
            ("spatial_weights_out", ("B", "K", "N"), "spatial_weights after the output projection"),
            ("gradient", ("B", "P", "K", "D"), "gradient"),
        )
    ),
    Signal("hidden", ("B", "K", "T", "D"), "float32", "tokens before each of the last K blocks", "hidden"),
    Signal("state", ("B", "T", "D"), "float32", "tokens before the first block of a tail", "hidden"),
    Signal("state_gradient", ("B", "P", "T", "D"), "float32", "d cosine / d state, every token", "hidden"),
    Signal("text_hidden", ("P", "K", "L", "D"), "float32", "text tokens before each of the last K blocks", "hidden"),
    Signal("text_state", ("P", "L", "D"), "float32", "text tokens before a text tail, the end token last", "hidden"),
    Signal("text_state_gradient", ("P", "B", "L", "D"), "float32", "d cosine / d text_state, every token", "hidden"),
    Signal("surgery_features", ("B", "T", "E"), "float32", "unit features of CLIP Surgery's second path", "surgery"),
    Signal("maskclip_features", ("B", "N", "E"), "float32", "unit features, a patch attends to itself", "surgery"),
    Signal("sclip_features", ("B", "N", "E"), "float32", "the same, queries to queries and keys to keys", "surgery"),
    Signal("clearclip_features", ("B", "N", "E"), "float32", "the same, queries, no residual, no MLP", "surgery"),
    Signal("naclip_features", ("B", "N", "E"), "float32", "the same, near keys, no residual, no MLP", "surgery"),
    Signal("maskclip_bare_features", ("B", "N", "E"), "float32", "as MaskCLIP, no residual, no MLP", "surgery"),
    Signal("pixel_gradient", ("B", "P", "3", "Y", "X"), "float32", "d cosine / d pixels", "pixels"),
    Signal("attnlrp_gradient", ("B", "P", "3", "Y", "X"), "float32", "the same by the rules of AttnLRP", "lrp"),
    Signal("cplrp_gradient", ("B", "P", "3", "Y", "X"), "float32", "the same by the rules of CP-LRP", "lrp"),
    Signal("image", ("B", "E"), "float32", "image vectors in the joint space, of any length", "words"),
    Signal("text_similarity", ("P", "B"), "float32", "cosine of text and image, -1..1, without logit scale", "words"),
    Signal("text_queries", ("P", "K", "L", "D"), "float32", "queries of all text tokens, as class_query", "words"),
    Signal("text_keys", ("P", "K", "L", "D"), "float32", "keys of all text tokens, heads concatenated", "words"),
    Signal("text_values", ("P", "K", "L", "D"), "float32", "values of all text tokens, heads concatenated", "words"),
    Signal(
        "text_attention", ("P", "K", "H", "L"), "float32", "attention row of the end token, sums to 1 over L", "words"
    ),
    Signal("text_gradient", ("P", "B", "K", "D"), "float32", "d cosine / d O[end token], as gradient", "words"),
    Signal("rollout", ("B", "S", "N"), "float32", "class row of attention rollout from each block up", "rollout"),
    Signal("attention_mean", ("B", "S", "T", "T"), "float32", "mean over heads of every block's attention", "rollout"),
    Signal(
        "chefer_relevance",
        ("B", "P", "S", "N"),
        "float32",
        "class row of Chefer et al.'s relevance of the target, from each block up",
        "relevance",
    ),
    Signal(
        "legrad",
        ("B", "P", "K", "N"),
        "float32",
        "mean over heads and query rows of ReLU(d s / d A), s of each block's mean token",
        "legrad",
    ),
    Signal(
        "grad_cam", ("B", "P", "N"), "float32", "Grad-CAM of the last LayerNorm before attention, signed", "gradcam"
    ),
    Signal("grad_cam_input", ("B", "P", "N"), "float32", "Grad-CAM of the last block's input, signed", "gradcam"),
    Signal("head_gates", ("B", "S", "H"), "float32", "factor of what each head mixes: 1 as it is, 0 ablated", "gates"),
    Signal("head_values", ("S", "D"), "float32", "what stands in place of what an ablated head mixes", "gates"),
    Signal("block_gates", ("B", "S", "2"), "float32", "factors of each block's attention and MLP", "gates"),
    Signal("token_gates", ("B", "N"), "float32", "factor of every attention weight of a patch, 0 and more", "gates"),
    Signal("head_means", ("B", "S", "D"), "float32", "what the heads mix before gates, mean over all tokens", "gates"),
    Signal("features", ("B", "T", "D"), "float32", "the last block's tokens after its first LayerNorm", "gates"),
)

SIGNALS: Final[dict[str, Signal]] = {signal.name: signal for signal in _ALL}

_GRAPHS: Final = {
    "plain": ("encode", "image", "text"),
    "hidden": ("hidden", "tail", "text_hidden", "text_tail"),
    "single_head": ("single_head", "single_head_deep"),
    "relevance": ("chefer",),
    "surgery": ("surgery", "patch_features"),
    "lrp": ("attnlrp", "cplrp"),
    "sizes": ("encode_any", "image_any", "single_head_any"),
    **{name: (name,) for name in ("deep", "queries", "words", "rollout", "legrad", "gradcam", "gates", "pixels")},
}
_GROUPS: Final = {graph: group for group, graphs in _GRAPHS.items() for graph in graphs}


def group_of(graph: str) -> str:
    """The group of graphs that a graph belongs to (``eyeshine export --signals``); empty where no group has it."""
    return _GROUPS.get(graph.rstrip("_0123456789"), "")  # tail_2: a tail of two blocks


def field_of(name: str) -> str:
    """The field of ``methods.BlockSignals`` that a signal stands in; several of one kind share one."""
    kinds = {"_features": "features", "lrp_gradient": "pixel_gradient"}
    return next((kind for end, kind in kinds.items() if name.endswith(end)), name.removeprefix(MODIFIED))


def last_blocks(name: str, array: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """The last ``count`` explained blocks of a signal; a signal without an axis over blocks as it is."""
    if name not in SIGNALS or not SIGNALS[name].per_block:
        return array
    axis = SIGNALS[name].dims.index("K")
    return array[(slice(None),) * axis + (slice(array.shape[axis] - count, None),)]
