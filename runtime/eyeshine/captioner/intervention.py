"""Replace the features of a region and see how the description changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eyeshine.captioner.response import Response
from eyeshine.errors import OptionError
from eyeshine.preprocess import CropBox

__all__ = ["Intervention", "Region", "patches_in"]

Region: TypeAlias = NDArray[np.bool_] | tuple[float, float, float, float]
"""bool [H, W], or (left, top, right, bottom) in pixels of the image."""

_COVERED: Final = 0.25  # of a patch; an object of the smallest size still takes the patches that it mostly fills


@dataclass(frozen=True, eq=False, kw_only=True)
class Intervention:
    """What replacing the features of a region did to a response.

    Attributes:
        prompt: the question.
        before, after: the responses to it.
        before_again: logarithms of the probabilities of the words of ``before``, with the features replaced.
        replaced: bool [h, w], the patches.
    """

    prompt: str
    before: Response
    after: Response
    before_again: tuple[float, ...]
    replaced: NDArray[np.bool_]

    @property
    def removed(self) -> tuple[str, ...]:
        """Words of the response before that the one after lacks, in order, as often as it lacks them."""
        return _without(self.before.tokens, self.after.tokens)

    @property
    def added(self) -> tuple[str, ...]:
        """Words of the response after that the one before lacks."""
        return _without(self.after.tokens, self.before.tokens)

    @property
    def log_likelihood_change(self) -> float:
        """By how much the log-likelihood of the response before rose (mostly: fell) when the features were replaced."""
        return sum(self.before_again) - sum(self.before.logprobs)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        words = zip(self.before.tokens, self.before.logprobs, self.before_again, strict=True)
        return {
            "prompt": self.prompt,
            "before": self.before.text,
            "after": self.after.text,
            "removed": list(self.removed),
            "added": list(self.added),
            "log_likelihood_change": round(self.log_likelihood_change, 4),
            "words": [
                {"word": word, "log_probability_change": round(again - before, 4)} for word, before, again in words
            ],
            "replaced_patches": [[int(row), int(column)] for row, column in np.argwhere(self.replaced)],
        }


def _without(words: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    spare = Counter(others)
    left = []
    for word in words:
        if spare[word]:
            spare[word] -= 1
        else:
            left.append(word)
    return tuple(left)


def patches_in(region: Region, size: tuple[int, ...], crop: CropBox, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """The patches of which a region covers a quarter or more.

    Args:
        region: see ``Region``.
        size: height and width of the image.
        crop: the part of the image that the patches show.
        grid: patches (down, across).

    Returns:
        bool [h, w].

    Raises:
        OptionError: a region of another size or outside the image; one that covers no patch, or all of them.
    """
    covered = np.zeros(size, np.float32)
    if isinstance(region, tuple):
        left, top, right, bottom = region
        if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
            raise OptionError("region outside the image", got=region, allowed=f"within {size[1]}x{size[0]}")
        covered = np.outer(_overlap(top, bottom, size[0]), _overlap(left, right, size[1]))
    elif region.dtype == np.bool_ and region.shape == size:
        covered[region] = 1
    else:
        raise OptionError("not a region", got=f"{region.dtype} {list(region.shape)}", allowed=f"bool {list(size)}")
    # A box filter with a fractional box is the exact share of each patch.
    box = (crop.x0, crop.y0, crop.x1, crop.y1)
    shares = Image.fromarray(covered).resize((grid[1], grid[0]), Image.Resampling.BOX, box=box)
    chosen: NDArray[np.bool_] = np.asarray(shares) >= _COVERED
    if not chosen.any() or chosen.all():
        raise OptionError(
            "region covers no patch, or all", got=f"{int(chosen.sum())} of {chosen.size}", allowed="some patches",
            cure="choose a larger or smaller region; a patch counts from a quarter of its area on",
        )  # fmt: skip
    return chosen


def _overlap(start: float, stop: float, length: int) -> NDArray[np.float32]:
    """How much of each pixel start..stop covers, float32 [length]."""
    edges = np.arange(length, dtype=np.float32)
    covered: NDArray[np.float32] = np.clip(np.minimum(edges + 1, stop) - np.maximum(edges, start), 0, 1)
    return covered.astype(np.float32)
