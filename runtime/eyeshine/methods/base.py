"""What an attribution method is: signals of the explained blocks in, a map over the patches out.

Signals are NumPy arrays for the backend "reference" and torch tensors on the GPU for "triton"; methods are written
once, with the kernels and with what both kinds of array know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from eyeshine.checks import check_whole
from eyeshine_kernels.backend import Backend

__all__ = ["Array", "BlockSignals", "Method", "check_blocks", "for_all_prompts", "need"]

Array = Any
"""A NumPy array, or a torch tensor where the backend is "triton"; float32."""


@dataclass(frozen=True)
class BlockSignals:
    """The signals of the last K blocks, ascending; a field is None where the method did not ask for it.

    Attributes:
        backend: what the kernels compute with, and so the kind of the arrays.
        depth: blocks of the tower, so that blocks can be named.
        grid: rows and columns of the N patches, row by row.
        patch: of a patch, (height, width) in pixels.
        combine: from what is known of the J texts that ``prompts`` are the vectors of, [B, J, ...], to the same of the
            P targets.
        class_query: [B, K, D].
        keys, values: [B, K, T, D], token 0 is the class token.
        queries: [B, K, N, D], of the patches.
        spatial_weights: [B, K, N] in 0..1.
        spatial_weights_out: the same from queries and keys after the output projection.
        class_attention: [B, K, H, T].
        gradient: [B, P, K, D], of the target, heads concatenated.
        features: [B, T, E] or, of patches alone, [B, N, E], unit vectors in the joint space.
        pixel_gradient: [B, P, 3, Y, X], of the target, to RGB in 0..1; or modified by rules of relevance.
        centred_pixels: [B, 3, Y, X], RGB in 0..1 less the model's mean.
        text: [P, E], unit vectors of the explained texts.
        prompts: [J, E], unit vectors of all texts of the target, the explained ones first.
        empty_text: [E], unit vector of no text at all.
        target: [P, E] or [B, P, E], vectors whose dot product with the embedding is the explained score.
        rollout: [B, S, N], one for each block that the product starts at.
        chefer_relevance: [B, P, S, N], likewise, of the target.
        legrad: [B, P, K, N], of the target.
        grad_cam, grad_cam_input: [B, P, N], of the target, signed.
        head_projection: [K, D, E], what each channel of the heads adds to the embedding; a constant of the model.
    """

    backend: Backend = "reference"
    depth: int = 0
    grid: tuple[int, int] = (0, 0)
    patch: tuple[int, int] = (0, 0)
    combine: Callable[[Array], Array] | None = None
    class_query: Array | None = None
    keys: Array | None = None
    values: Array | None = None
    queries: Array | None = None
    spatial_weights: Array | None = None
    spatial_weights_out: Array | None = None
    class_attention: Array | None = None
    gradient: Array | None = None
    features: Array | None = None
    pixel_gradient: Array | None = None
    centred_pixels: Array | None = None
    text: Array | None = None
    prompts: Array | None = None
    empty_text: Array | None = None
    target: Array | None = None
    rollout: Array | None = None
    chefer_relevance: Array | None = None
    legrad: Array | None = None
    grad_cam: Array | None = None
    grad_cam_input: Array | None = None
    head_projection: Array | None = None


class Method(Protocol):
    """One attribution method.

    Attributes:
        name: in the registry, in results and on the command line.
        signals: names of the signals it reads; the runtime runs the cheapest graph that has them. Those of a modified
            model (``signals.MODIFIED``) stand in the fields of their kind.
        needs: what else it reads: "text", "target", "prompts", "empty_text", "centred_pixels",
            "head_projection"; "logits" where its target is the logit, not the cosine.
        blocks: K, how many of the last blocks it reads.
        uses_text: whether its map depends on the text.
        cost: "graph" (nothing beyond the graph) or "patches" (arithmetic over patches).
        reference: paper or code it comes from.
    """

    name: ClassVar[str]
    uses_text: ClassVar[bool]
    cost: ClassVar[str]
    reference: ClassVar[str]

    @property
    def signals(self) -> frozenset[str]: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def blocks(self) -> int: ...

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Return maps [B, P, N] for ``prompts`` prompts, the method's own values, finite."""
        ...


def for_all_prompts(maps: Any, prompts: int) -> Any:
    """Maps [B, N] that do not depend on the text, as [B, P, N] of the same kind."""
    shape = (maps.shape[0], prompts, maps.shape[1])
    if isinstance(maps, np.ndarray):
        return np.broadcast_to(maps[:, None], shape).copy()
    return maps[:, None].expand(shape).contiguous()


def check_blocks(name: str, blocks: Any) -> None:
    """Check a setting that is a number of blocks.

    Raises:
        OptionError: no whole number of 1..64.
    """
    check_whole(name, blocks, 1, 64)


def need(array: Any | None, name: str) -> Any:
    """Return a signal that the method declared; its absence is a defect of the caller."""
    if array is None:
        raise TypeError(f"signal {name} was not handed to the method")
    return array
