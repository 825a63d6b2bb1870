"""What a response rests on: maps over the image, the words before, and both as a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.captioner.maps import MapOptions
from eyeshine.captioner.response import Response
from eyeshine.errors import OptionError
from eyeshine.preprocess import CropBox
from eyeshine.upsample import normalize_maps, to_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ResponseExplanation"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class ResponseExplanation:
    """Where a response rests, and on what each of its words does.

    Maps are sums of contributions to a log-likelihood that speak for it (negative ones are cut), at patch resolution;
    all zeros where there are none.

    Attributes:
        prompt: the question.
        response: what is explained.
        words: all T words, the prompt's first, special words included.
        map: float32 [h, w], of the whole response: its layers' maps, each times its α, summed up.
        layer_maps: float32 [L, h, w], the same of every decoder layer.
        word_maps: float32 [R, h, w], of the log-probability of each word of the response alone.
        earlier: float32 [R, T], how much each of them rests on the words before it, see ``maps.earlier_words``.
        options: how signals became maps.
        image: uint8 [H, W, 3], as it was seen.
        crop: the part of it that the patches show.
    """

    prompt: str
    response: Response
    words: tuple[str, ...]
    map: Array
    layer_maps: Array
    word_maps: Array
    earlier: Array
    options: MapOptions
    image: NDArray[np.uint8]
    crop: CropBox

    @property
    def first(self) -> int:
        """Place of the response's first word among ``words``."""
        return len(self.words) - len(self.response.tokens)

    @property
    def log_likelihood(self) -> float:
        """Sum of the logarithms of the response's words' probabilities, at most 0."""
        return sum(self.response.logprobs)

    @property
    def image_shares(self) -> Array:
        """How much of what each word rests on is image, float32 [R] in 0..1; the rest is words before; 0 for nothing.

        Words before carry what they saw themselves, so this is a lower bound of what the image decides.
        """
        seen, read = self.word_maps.sum(axis=(1, 2)), self.earlier.sum(axis=1)
        shares: Array = np.divide(seen, seen + read, out=np.zeros_like(seen), where=seen + read > 0)
        return shares

    def heatmap(self, word: int | None = None, size: tuple[int, int] | None = None) -> Array:
        """A heat map on the image, float32 [H, W] in 0..1, the hottest place 1; all zeros without evidence.

        Args:
            word: of the response; None for the whole response.
            size: (height, width) of the result; by default the image's own.

        Raises:
            OptionError: no such word.
        """
        if word is not None and not 0 <= word < len(self.response.tokens):
            raise OptionError("no such word", got=word, allowed=f"0..{len(self.response.tokens) - 1}")
        chosen = self.map if word is None else self.word_maps[word]
        heat: Array = to_image(normalize_maps(chosen[None]), self.crop, size)[0]
        return heat

    def overlay(self, word: int | None = None) -> Image:
        """The image with a heat map over it, a PIL image; arguments as ``heatmap``."""
        from eyeshine.render import overlay

        return overlay(self.image, self.heatmap(word))

    def graph(self, patches: int = 6, words: int = 3) -> dict[str, Any]:
        """The attribution graph, plain values for JSON; see ``attribution.attribution_graph``."""
        from eyeshine.captioner.attribution import attribution_graph

        return attribution_graph(self, patches, words)

    def picture(self) -> Image:
        """Words and patches with what each word rests on, a PIL image; see ``picture.draw``."""
        from eyeshine.captioner.picture import draw

        return draw(self)
