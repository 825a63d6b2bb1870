"""One image, one text and one map: what metrics are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.preprocess import CropBox, Preprocess
from eyeshine.upsample import normalize_maps, to_image
from eyeshine_kernels.products import matmul

__all__ = ["MEASURES", "Case", "Measure", "measure", "needs_of"]

Array = NDArray[np.float32]
Measure = Literal["cosine", "prob", "margin", "top1", "top5", "top10"]
MEASURES: Final[tuple[Measure, ...]] = ("cosine", "prob", "margin", "top1", "top5", "top10")
"""What an embedding is worth: its cosine with the text; the text's softmax probability among the labels; the logit of
the text less that of the negative one; 1 where the text is among the best k labels, else 0."""

_NO_CONTRAST = 1e-6  # of the largest value: float32 rounding, which a min-max would turn into a map of pure noise


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """A map with everything that metrics compare it with.

    Attributes:
        photo: uint8 [H, W, 3], the image as it was explained.
        crop: the part of it that the model saw.
        pixels: float32 [3, Y, X], the model's input, RGB in 0..1.
        box: the part of ``pixels`` that the patches cover.
        map: float32 [h, w], the method's own values, one per patch.
        preprocess: from a photo to the model's input.
        mean: [3], the colour that normalisation takes to 0.
        logit_scale: the model's factor of the cosine.
        text: unit vector [E] of the text that is scored: the explained one, unless another was named.
        contrast: unit vector [E] of the negative text.
        labels: unit vectors [C, E] of the label set, the text among them.
        truth: the text's place in ``labels``.
        masks: bool [K, H, W], the text's K objects in the photo.
    """

    photo: NDArray[np.uint8]
    crop: CropBox
    pixels: Array
    box: CropBox
    map: Array
    preprocess: Preprocess
    mean: Array
    logit_scale: float
    text: Array
    contrast: Array | None = None
    labels: Array | None = None
    truth: int = 0
    masks: NDArray[np.bool_] | None = None

    @property
    def is_flat(self) -> bool:
        """Whether the map has no contrast, to float32 rounding: it says nothing about where."""
        return bool(np.ptp(self.map) <= _NO_CONTRAST * np.abs(self.map).max())

    def heat(self) -> Array:
        """The map as a soft mask of the model's input, [Y, X] in 0..1: min-max over the patches, then interpolated.

        Zero where no patch lies; all zeros where the map is flat. No clipping of percentiles: it would create ties.
        """
        return to_image(self._normalized(), self.box)

    def heat_on_photo(self, size: tuple[int, int] | None = None) -> Array:
        """``heat`` on the photo, [H, W] or ``size``; zero where the model saw nothing."""
        return to_image(self._normalized(), self.crop, size)

    def _normalized(self) -> Array:
        return np.zeros_like(self.map) if self.is_flat else normalize_maps(self.map[None])[0]


def needs_of(name: Measure) -> frozenset[str]:
    """What a measure needs beside the text."""
    return {"cosine": frozenset[str](), "margin": frozenset({"contrast"})}.get(name, frozenset({"labels"}))


def measure(case: Case, name: Measure, vectors: Array) -> NDArray[np.float64]:
    """The worth [n] of unit embeddings [n, E], in float64; see ``MEASURES``."""
    exact = vectors.astype(np.float64)
    if name == "cosine":
        return np.asarray(matmul(exact, case.text))
    if name == "margin":
        assert case.contrast is not None
        return np.asarray(case.logit_scale * (matmul(exact, case.text) - matmul(exact, case.contrast)))
    assert case.labels is not None
    logits = case.logit_scale * matmul(exact, case.labels.T)
    if name == "prob":
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds[:, case.truth] / odds.sum(axis=1))
    better = (logits > logits[:, case.truth, None]).sum(axis=1)
    return np.asarray(better < int(name.removeprefix("top")), dtype=np.float64)
