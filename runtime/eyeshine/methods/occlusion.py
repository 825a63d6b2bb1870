"""Occlusion: how much the score drops where a square of patches is hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice, check_whole
from eyeshine.fills import FixedFill, filled
from eyeshine.methods.masking import patch_frames
from eyeshine.methods.passes import Model, Subject

__all__ = ["Blur", "Occlusion", "windows"]


@dataclass(frozen=True)
class Occlusion:
    """``S_i = mean over windows w that cover patch i of score(x) - score(x with w filled)``.

    Windows slide over the patches; where the stride leaves patches at the lower and right edges, a last window lies
    flush with them.

    Attributes:
        window: patches of a window, down and across, 1..64; a larger grid's side at most.
        stride: patches between windows, 1..window.
        fill: what a window becomes: "mean" colour, "black", or RISE's "blur" of the image.
    """

    window: int = 3
    stride: int = 1
    fill: FixedFill = "mean"

    name: ClassVar[str] = "occlusion"
    signals: ClassVar[frozenset[str]] = frozenset()
    graphs: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014"

    def __post_init__(self) -> None:
        check_whole("window", self.window, 1, 64)
        check_whole("stride", self.stride, 1, self.window)
        check_choice("fill", self.fill, get_args(FixedFill))

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float64]:
        """Maps [P, h, w]."""
        hidden = windows(model.grid, self.window, self.stride)
        other = filled(subject.pixels, self.fill, model.mean)
        whole = np.ones((1, *model.grid), bool)
        frames = patch_frames(subject.pixels, other, np.concatenate([whole, ~hidden]), model.grid, model.patch)
        embeddings = model.track(model.encode(frames), len(hidden) + 1, self.name)
        first, *rest = (subject.score(embedding) for embedding in embeddings)
        drops = first - np.stack(rest)
        return np.asarray(np.einsum("np,nhw->phw", drops, hidden.astype(np.float64)) / hidden.sum(axis=0))


@dataclass(frozen=True)
class Blur(Occlusion):
    """Occlusion by RISE's blur: what is taken away is detail, and no edge of a flat colour comes in.

    Attributes:
        window, stride, fill: as in ``Occlusion``.
    """

    fill: FixedFill = "blur"

    name: ClassVar[str] = "blur"
    reference: ClassVar[str] = "Fong and Vedaldi, Interpretable Explanations of Black Boxes, ICCV 2017 (the blur)"


def windows(grid: tuple[int, int], window: int, stride: int) -> NDArray[np.bool_]:
    """[n, h, w]: the patches of each window, row by row."""
    rows, columns = (_spans(length, window, stride) for length in grid)
    return np.stack([row[:, None] & column for row in rows for column in columns])


def _spans(length: int, window: int, stride: int) -> list[NDArray[np.bool_]]:
    """Where windows lie along a side, [length] each."""
    last = max(length - window, 0)
    starts = dict.fromkeys([*range(0, last + 1, stride), last])
    place = np.arange(length)
    return [(place >= start) & (place < start + window) for start in starts]
