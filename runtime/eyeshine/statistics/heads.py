"""What each head of the last blocks does with the class token's attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_whole
from eyeshine.images import ImageLike, load_image
from eyeshine.request import as_list, stack
from eyeshine.signals import last_blocks
from eyeshine.statistics.distribution import Around, distance, entropy_bits

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["HeadStatistics", "head_statistics"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """Of B images, K blocks and H heads, [B, K, H] each.

    Attributes:
        blocks: indices of the K blocks in the tower, ascending.
        class_share: what the class token keeps for itself, 0..1; all else is of the attention to the patches alone.
        entropy_bits: 0..log2 N.
        distance_patches: mean distance from the point that was asked for, in patches.
        distance_px: the same in pixels of the model's input.
    """

    blocks: tuple[int, ...]
    class_share: Array
    entropy_bits: Array
    distance_patches: Array
    distance_px: Array

    def record(self, image: int) -> list[dict[str, Any]]:
        """One head after the other, as plain values."""
        names = ("class_share", "entropy_bits", "distance_patches", "distance_px")
        _, blocks, heads = self.entropy_bits.shape
        return [
            {"block": self.blocks[k], "head": h, **{name: float(getattr(self, name)[image, k, h]) for name in names}}
            for k in range(blocks)
            for h in range(heads)
        ]


def head_statistics(
    explainer: Explainer, images: ImageLike | Sequence[ImageLike], *, layers: int = 1, around: Around = "centre"
) -> HeadStatistics:
    """Entropy and distance of every head's class attention in the last ``layers`` blocks; no text is encoded.

    Args:
        explainer: with the bundle.
        images: B of them, as in ``Explainer.explain``.
        layers: K, 1..64.
        around: see ``distance``.

    Raises:
        ImageError, OptionError: what was passed in cannot be used.
        SignalError: the bundle explains fewer blocks.
    """
    check_whole("layers", layers, 1, 64)
    model = explainer.bundle.manifest.model
    pixels = stack([explainer.preprocess.prepare(load_image(image)) for image in as_list(images)])
    any_size, name = pixels.shape[2:] != model.image_size, "class_attention"
    graph = explainer.bundle.cheapest(frozenset({name}), layers, any_size=any_size)
    inputs: dict[str, NDArray[Any]] = {"pixels": pixels}
    if "text" in explainer.bundle.graph(graph).inputs:  # nothing that is read here depends on it
        inputs["text"] = np.ones((explainer.options.nearest("P", 1), model.embed_dim), np.float32)
    attention: Any = last_blocks(name, explainer._session(graph).run(inputs, [name]).outputs[name], layers)
    patches = attention[..., 1:]
    grid = (pixels.shape[2] // model.patch_size[0], pixels.shape[3] // model.patch_size[1])
    return HeadStatistics(
        tuple(range(model.layers - layers, model.layers)),
        attention[..., 0].astype(np.float64),
        entropy_bits(patches),
        distance(patches, grid, around=around),
        distance(patches, grid, around=around, cell=model.patch_size),
    )
