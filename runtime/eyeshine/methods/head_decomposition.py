"""Head decomposition: what each head writes into the joint space, patch by patch, along a text (Gandelsman et al.)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_truth
from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, check_blocks, need
from eyeshine_kernels.products import matmul
from eyeshine_kernels.relevance import relevance

__all__ = ["HeadContributions", "HeadDecomposition"]


@dataclass(frozen=True, eq=False)
class HeadContributions:
    """What each head adds to the score, along the direct path.

    Attributes:
        first_block: index of the first of the K blocks, counted in the tower from 0.
        scores: float32 [B, P, K, H], all tokens summed: the head's share of the score but for a factor, 1 / (sigma
            |e|), that is the same for all heads of an image.
    """

    first_block: int
    scores: NDArray[np.float32]

    def record(self, image: int, prompt: int) -> list[dict[str, Any]]:
        """The heads of one map as records, the largest contribution first: block, head, score."""
        scores = self.scores[image, prompt]
        order = np.argsort(-scores, axis=None, kind="stable")
        places = [np.unravel_index(place, scores.shape) for place in order]
        return [
            {"block": self.first_block + int(block), "head": int(head), "score": float(scores[block, head])}
            for block, head in places
        ]


@dataclass(frozen=True)
class HeadDecomposition:
    """``ReLU(sum_{l,h} A_{l,h}[class, i] <r_{l,h}, V_{l,h,i}>)``, r_{l,h} where a head writes along the text.

    ``r_{l,h} = W_o,h^T C (gamma * (P t))``: output projection, LN_post with its statistics frozen, projection; no path
    through MLPs and later blocks. All terms of all blocks, with those of MLPs and biases, sum to the embedding. Each
    term loses its own mean over channels (C), which is its exact share of what LN_post takes away; the released code
    spreads that evenly over the terms instead. What is the same for all patches is left out, and the factor
    1 / (sigma |e|) > 0 of an image as well.

    Attributes:
        layers: how many of the last blocks, 1..64; the paper takes all, which needs a bundle of ``--layers`` all.
        over_prompts: subtract the mean over the texts of the call, as the paper's segmentation does over its classes.
        signed: keep negative values; without it they are 0, as the paper clips them.

    Raises:
        OptionError: a value outside what is allowed.
    """

    layers: int = 4
    over_prompts: bool = False
    signed: bool = False

    name: ClassVar[str] = "head_decomposition"
    signals: ClassVar[frozenset[str]] = frozenset({"values", "class_attention"})
    needs: ClassVar[frozenset[str]] = frozenset({"target", "head_projection"})
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = (
        "Gandelsman et al., Interpreting CLIP's Image Representation via Text-Based Decomposition, ICLR 2024"
    )

    def __post_init__(self) -> None:
        check_blocks("layers", self.layers)
        for name in ("over_prompts", "signed"):
            check_truth(name, getattr(self, name))

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads."""
        return self.layers

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N]."""
        return self.attribute(signals)[0]

    def attribute(self, signals: BlockSignals) -> tuple[Array, HeadContributions]:
        """Maps [B, P, N], and what each head contributes.

        Raises:
            OptionError: ``over_prompts`` with a single text.
        """
        attention, values = need(signals.class_attention, "class_attention"), need(signals.values, "values")
        directions = _directions(
            need(signals.head_projection, "head_projection"), need(signals.target, "target"), len(values)
        )
        heads = attention.shape[2]
        maps = relevance(
            directions, values, heads=heads, options="head_decomposition", attention=attention, backend=signals.backend
        ).sum(2)
        if self.over_prompts:
            if maps.shape[1] < 2:
                raise OptionError(
                    "over_prompts subtracts the mean over the texts", got="one text", allowed="two or more",
                    cure="over_prompts=False, or explain several texts in one call",
                )  # fmt: skip
            maps = maps - maps.mean(1)[:, None]
        scores = _scores(directions, values, attention)
        return maps if self.signed else maps.clip(0), HeadContributions(
            signals.depth - self.layers, scores if isinstance(scores, np.ndarray) else scores.cpu().numpy()
        )


def _directions(projection: Array, target: Array, images: int) -> Array:
    """r: [K, D, E] along targets [P, E] or [B, P, E] -> [B, P, K, D] in one piece."""
    each = target if target.ndim == 3 else target[None]
    rows = matmul(projection[None], each.swapaxes(1, 2)[:, None]).swapaxes(2, 3).swapaxes(1, 2)
    shape = (images, *rows.shape[1:])
    if isinstance(rows, np.ndarray):
        return np.ascontiguousarray(np.broadcast_to(rows, shape))
    return rows.expand(shape).contiguous()


def _scores(directions: Array, values: Array, attention: Array) -> Array:
    """``<r_h, sum_i A_h[i] V_{h,i}>`` over all tokens, the class token among them, [B, P, K, H]."""
    images, blocks, heads, _ = attention.shape
    own = list(range(heads))
    mixed = matmul(attention, values).reshape(images, blocks, heads, heads, -1)[:, :, own, own]
    return (directions.reshape(images, -1, blocks, heads, mixed.shape[-1]) * mixed[:, None]).sum(-1)
