"""Saliency: the gradient of the cosine with respect to the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, need

__all__ = ["Saliency", "patch_sums"]

Reduce = Literal["max", "sum", "net"]


@dataclass(frozen=True)
class Saliency:
    """``mean over a patch's pixels of |dc/dx|``, the largest or the sum over RGB; x is raw RGB in 0..1.

    Attributes:
        reduce: of the three channels of a pixel the "max" or the "sum" of absolute values, or their signed sum, "net".
        times_input: Gradient x Input: the gradient of the normalised image times it, that is dc/dx times (x - mean).
    """

    reduce: Reduce = "max"
    times_input: bool = False

    name: ClassVar[str] = "saliency"
    signals: ClassVar[frozenset[str]] = frozenset({"pixel_gradient"})
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "Simonyan et al., Deep Inside Convolutional Networks, 2014"

    def __post_init__(self) -> None:
        if self.reduce not in get_args(Reduce):
            raise OptionError("reduce of saliency", got=repr(self.reduce), allowed=", ".join(get_args(Reduce)))

    @property
    def needs(self) -> frozenset[str]:
        """The image, for Gradient x Input."""
        return frozenset({"centred_pixels"} if self.times_input else ())

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative but for ``reduce="net"``."""
        values = need(signals.pixel_gradient, "pixel_gradient")
        if self.times_input:
            values = values * need(signals.centred_pixels, "centred_pixels")[:, None]
        if self.reduce == "max":
            values = abs(values)
            per_pixel = values.max(2) if isinstance(values, np.ndarray) else values.amax(2)
        else:
            per_pixel = (abs(values) if self.reduce == "sum" else values).sum(2)
        return patch_sums(per_pixel, signals) / (signals.patch[0] * signals.patch[1])


def patch_sums(pixels: Any, signals: BlockSignals) -> Any:
    """[B, P, Y, X] -> [B, P, N], summed over each patch's pixels; those that fill no whole patch are left out."""
    (rows, columns), (high, wide) = signals.grid, signals.patch
    whole = pixels[:, :, : rows * high, : columns * wide]
    cells = whole.reshape(*pixels.shape[:2], rows, high, columns, wide)
    return cells.sum((3, 5)).reshape(*pixels.shape[:2], rows * columns)
