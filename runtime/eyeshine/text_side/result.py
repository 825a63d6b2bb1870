"""The result of the text side: relevance per token, sums per word, and ways to look at them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.tokenizer import Pieces
from eyeshine.upsample import Scale

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

__all__ = ["TextExplanation"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TextExplanation:
    """Which tokens speak for the cosine of P texts with B images.

    Attributes:
        texts: the P texts, as they were given.
        pieces: the same as the model reads them: cleaned, in a template where there is one, and cut into tokens.
        relevance: float32 [B, P, N], the method's own values, N tokens of the longest text; start and end tokens are
            left out, and shorter texts are padded with zeros (``tokens`` says how many there are).
        similarities: float32 [B, P], cosine of image and text.
        method: name of the method.
        signed: whether values may be negative: tokens that speak against the image.
        bundle: name of the bundle.
        engine: provider, threads and determinism of the run, graph.
        timings_ms: text, load, images (encoding them, where the image side did not), graph, total; milliseconds, the
            image side not counted.
    """

    texts: tuple[str, ...]
    pieces: tuple[Pieces, ...]
    relevance: NDArray[np.float32]
    similarities: NDArray[np.float32]
    method: str
    signed: bool
    bundle: str
    engine: dict[str, Any]
    timings_ms: dict[str, float]

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of each text as the vocabulary spells them, without start and end."""
        return tuple(each.names for each in self.pieces)

    @property
    def ids(self) -> tuple[tuple[int, ...], ...]:
        """Their ids."""
        return tuple(each.ids for each in self.pieces)

    def of(self, image: int = 0, prompt: int = 0, *, shares: bool = False) -> NDArray[np.float32]:
        """Relevance of the tokens of one text for one image, float32 [its tokens].

        Args:
            image: index of the image.
            prompt: index of the text.
            shares: divide by the sum of absolute values, as the authors of Grad-ECLIP do; zeros stay zeros.

        Raises:
            OptionError: no such image or prompt.
        """
        for what, index, count in (("image", image, len(self.relevance)), ("prompt", prompt, len(self.texts))):
            if not isinstance(index, int) or not 0 <= index < count:
                raise OptionError(f"no such {what}", got=index, allowed=f"0..{count - 1}")
        values = self.relevance[image, prompt, : len(self.pieces[prompt].names)]
        total = float(np.abs(values).sum(dtype=np.float64))
        return values / np.float32(total) if shares and total > 0 else values.copy()

    def words(self, image: int = 0, prompt: int = 0, *, shares: bool = False) -> list[tuple[str, float]]:
        """Words, what white space separates in the cleaned text, each with the sum over its tokens; as ``of``."""
        values = self.of(image, prompt, shares=shares).astype(np.float64)
        return [(word, float(values[list(places)].sum())) for word, places in self.pieces[prompt].words]

    def levels(self, image: int = 0, scale: Scale | None = None) -> list[NDArray[np.float32]]:
        """Strength of the colour of every token, -1..1, for pictures; all zeros where there is no evidence.

        Args:
            image: index of the image.
            scale: "each" text reaches 1 or -1, or one "shared" scale for the texts of the image, so that they can be
                compared; by default shared where there are several.
        """
        values = [self.of(image, prompt) for prompt in range(len(self.texts))]
        most = [float(np.abs(each).max(initial=0)) for each in values]
        if (scale or ("shared" if len(values) > 1 else "each")) == "shared":
            most = [max(most)] * len(most)
        return [each / np.float32(top) if top > 0 else each for each, top in zip(values, most, strict=True)]

    def record(self, image: int = 0) -> dict[str, Any]:
        """What ``explain --json`` prints of one image, but for its name and files."""
        return {
            "bundle": self.bundle,
            "method": self.method,
            "signed": self.signed,
            "texts": [self._row(image, prompt) for prompt in range(len(self.texts))],
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
        }

    def _row(self, image: int, prompt: int) -> dict[str, Any]:
        pieces = self.pieces[prompt]
        return {
            "text": self.texts[prompt],
            "read": pieces.text,
            "similarity": round(float(self.similarities[image, prompt]), 6),
            "tokens": list(pieces.names),
            "ids": list(pieces.ids),
            "relevance": [float(value) for value in self.of(image, prompt)],
            "words": [[word, value] for word, value in self.words(image, prompt)],
        }

    def to_json(self) -> str:
        """All images, as JSON."""
        return json.dumps([self.record(image) for image in range(len(self.relevance))], ensure_ascii=False)

    def terminal(self, image: int = 0, scale: Scale | None = None) -> list[Text]:
        """Each text with coloured tokens, for ``rich``'s console; ``scale`` as in ``levels``."""
        from eyeshine.text_side.render import terminal

        return terminal(self, image, scale)

    def html(self, image: int = 0, scale: Scale | None = None) -> str:
        """Each text with coloured tokens, as one snippet of HTML with its styles; ``scale`` as in ``levels``."""
        from eyeshine.text_side.render import html

        return html(self, image, scale)

    def picture(self, image: int = 0, scale: Scale | None = None) -> Image:
        """Each text with coloured tokens, an RGB picture; ``scale`` as in ``levels``."""
        from eyeshine.text_side.render import picture

        return picture(self, image, scale)
