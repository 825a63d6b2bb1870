"""Activations of images, how prompts' similarities change with them, and what moving them does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eyeshine.images import ImageLike, load_image
from eyeshine.tcav.options import At

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Activations"]

Array = NDArray[np.float32]


class Activations:
    """The tokens of images before the last blocks, reduced to one vector.

    Args:
        explainer: of a bundle with the group "hidden".
        blocks: that lie above, 1..3.
        at: "class" or "patches" (their mean).
        max_batch: most images of one run, 1..4096.
    """

    def __init__(self, explainer: Explainer, blocks: int, at: At, max_batch: int = 32) -> None:
        self.blocks, self.at = blocks, at
        self._graph, self._explainer, self._model = f"tail_{blocks}", explainer, explainer.model(max_batch)

    def read(self, images: Sequence[ImageLike]) -> Array:
        """Activations [n, D]."""
        parts = [tokens[:, 0] if self.at == "class" else tokens[:, 1:].mean(axis=1) for tokens in self.tokens(images)]
        return np.concatenate(parts)

    def tokens(self, images: Sequence[ImageLike]) -> Iterator[Array]:
        """Tokens [B, T, D], a batch of images at a time."""
        text = np.ones((1, self._explainer.bundle.manifest.model.embed_dim), np.float32)
        prepare, step = self._explainer.preprocess.prepare, self._model.max_batch
        for at in range(0, len(images), step):
            pixels = np.stack([prepare(load_image(image)).pixels for image in images[at : at + step]])
            yield self._model.run("hidden", {"pixels": pixels, "text": text}, ["hidden"])["hidden"][:, -self.blocks]

    def slopes(self, tokens: Array, text: Array) -> tuple[Array, Array]:
        """Cosines [B, P] of tokens [B, T, D], and their derivatives by the activation [B, P, D].

        The mean of the patches moves when all of them move alike: its derivative is the sum of theirs.
        """
        found = self._model.run(self._graph, {"state": tokens, "text": text}, ["similarity", "state_gradient"])
        gradient = found["state_gradient"]
        slope: Array = gradient[:, :, 0] if self.at == "class" else gradient[:, :, 1:].sum(axis=2)
        return found["similarity"], slope

    def moved(self, tokens: Array, shifts: Array, text: Array) -> Array:
        """Cosines [n, P] of one image's tokens [T, D] with unit texts, its activation moved by each shift of [n, D].

        From the embedding: the graph would go back through its blocks for every text.
        """
        parts = []
        for at in range(0, len(shifts), self._model.max_batch):
            shift = shifts[at : at + self._model.max_batch, None]
            states = np.repeat(tokens[None], len(shift), axis=0)
            if self.at == "class":
                states[:, :1] += shift
            else:
                states[:, 1:] += shift
            parts.append(self._model.run(self._graph, {"state": states, "text": text[:1]}, ["embedding"])["embedding"])
        return np.concatenate(parts) @ text.T
