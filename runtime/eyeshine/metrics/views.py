"""The image as it is, and with its soft mask: what the similarity metrics encode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.metrics.base import check_choice
from eyeshine.metrics.case import Case

__all__ = ["Clean", "MaskFill", "Masked"]

Array = NDArray[np.float32]
MaskFill = Literal["mean", "black"]


@dataclass(frozen=True)
class Clean:
    """The image itself."""

    uses_map: ClassVar[bool] = False
    count: ClassVar[int] = 1

    def frames(self, case: Case) -> Iterator[Array]:
        """The model's input as it is."""
        yield case.pixels


@dataclass(frozen=True)
class Masked:
    """The image times the map M, or times 1 - M, at the model's input size.

    The papers multiply after normalisation, where 0 is the mean colour. Graphs take RGB in 0..1 and normalise inside,
    so the same image is ``mean + M (x - mean)`` here.

    Attributes:
        keep: what stays: the heat (M), or all but the heat (1 - M).
        fill: what the rest becomes: "mean" as above, or "black" (multiplied before normalisation).
        binary: make M 1 where it is at least this, else 0; None leaves it soft. In 0..1, 0 excluded.
    """

    keep: bool
    fill: MaskFill = "mean"
    binary: float | None = None

    uses_map: ClassVar[bool] = True
    count: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("fill", self.fill, get_args(MaskFill))
        if self.binary is not None and not (isinstance(self.binary, float | int) and 0 < self.binary <= 1):
            raise OptionError(
                "binary is a share of the map's range", got=self.binary, allowed="0..1 (0 excluded), None"
            )

    def frames(self, case: Case) -> Iterator[Array]:
        """One image."""
        share = case.heat()
        if self.binary is not None:
            share = (share >= self.binary).astype(np.float32)
        if not self.keep:
            np.subtract(np.float32(1), share, out=share)
        if self.fill == "black":
            yield case.pixels * share
            return
        mean = case.mean[:, None, None]
        image = case.pixels - mean
        image *= share
        image += mean
        yield image
