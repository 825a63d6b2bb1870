"""What an intervention changes: checked against the model before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.checks import check_choice, check_whole
from eyeshine.errors import OptionError
from eyeshine.images import ImageLike
from eyeshine.manifest import Manifest
from eyeshine.preprocess import CropBox

__all__ = ["Changes", "Part", "TokenFill", "as_patches", "head_values_of"]

Part = int | tuple[int, Literal["attention", "mlp"]]
"""A block, or its attention or MLP alone."""

TokenFill = Literal["remove", "mean", "black", "blur"]
"""No token attends to the patches any more; or their pixels turn into the mean colour, black, or their blur."""

_PARTS = ("attention", "mlp")
_LONGEST = 3  # blocks of the longest tail that is exported
_EDGE = 1e-6  # pixels: an edge on a pixel's is on it, whichever way its last bit was rounded


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """What is changed; several at once are changed together.

    Attributes:
        heads: (block, head) of each head that is ablated, counted from 0.
        blocks: blocks that pass their input on, whole or by their attention or MLP alone.
        head_values: [L, D], what stands in place of what an ablated head mixes, the same at every token (its mean over
            a data set, ``head_means``); None for zeros.
        tokens: bool, [h, w] over the patches or [H, W] over the photo (then patches that it mostly covers): patches
            that are masked.
        fill: what becomes of them.
        region: as ``tokens``: patches whose features are replaced; not together with any of the above.
        by: what replaces them: "mean", the mean of the image's other patches, or an image, patch by patch.
        depth: at how many blocks before the end, 1..3.

    Raises:
        OptionError: nothing to change, what cannot be changed together, or a value outside its range.
    """

    heads: Sequence[tuple[int, int]] = ()
    blocks: Sequence[Part] = ()
    head_values: ArrayLike | None = None
    tokens: NDArray[np.bool_] | None = None
    fill: TokenFill = "remove"
    region: NDArray[np.bool_] | None = None
    by: ImageLike = field(default="mean")
    depth: int = 1

    def __post_init__(self) -> None:
        check_choice("fill", self.fill, get_args(TokenFill))
        check_whole("depth", self.depth, 1, _LONGEST)
        model = bool(self.heads) or bool(self.blocks)
        if not model and self.tokens is None and self.region is None:
            raise OptionError("nothing to change", allowed="heads, blocks, tokens or region")
        if self.region is not None and (model or self.tokens is not None):
            raise OptionError(
                "features of a region are replaced by themselves", got="region beside heads, blocks or tokens",
                cure="two interventions",
            )  # fmt: skip
        if self.head_values is not None and not self.heads:
            raise OptionError("head_values stand in place of ablated heads", got="no heads", cure="pass heads")

    @property
    def gated(self) -> bool:
        """Whether something is taken away inside the model."""
        return bool(self.heads or self.blocks) or (self.tokens is not None and self.fill == "remove")

    def gates(self, manifest: Manifest, hidden: NDArray[np.bool_] | None) -> dict[str, NDArray[np.float32]]:
        """Gates of the graph "gates" for one image; ``hidden`` are the masked patches [h, w].

        Raises:
            OptionError: no such head or block, or values of another shape.
        """
        model, rows = manifest.model, manifest.grid[0] * manifest.grid[1]
        heads, parts = (np.ones((model.layers, count), np.float32) for count in (model.heads, 2))
        for pair in self.heads:
            block, head = _pair(pair)
            heads[_index("block", block, model.layers), _index("head", head, model.heads)] = 0
        for entry in self.blocks:
            block, part = _pair(entry) if isinstance(entry, tuple) else (entry, None)
            if part is not None:
                check_choice("part of a block", part, _PARTS)
            parts[_index("block", block, model.layers), slice(None) if part is None else _PARTS.index(part)] = 0
        shown = np.ones(rows, np.float32)
        if hidden is not None and self.fill == "remove":
            shown[hidden.ravel()] = 0
        values = {} if self.head_values is None else {"head_values": head_values_of(self.head_values, manifest)}
        return {"head_gates": heads, "block_gates": parts, "token_gates": shown, **values}

    def describe(self) -> tuple[str, ...]:
        """What is changed, one line each."""
        lines = [f"head {block}.{head} ablated" for block, head in self.heads]
        for entry in self.blocks:
            block, part = entry if isinstance(entry, tuple) else (entry, None)
            lines.append(f"block {block} passed over" if part is None else f"{part} of block {block} passed over")
        if self.tokens is not None:
            lines.append("patches removed" if self.fill == "remove" else f"patches filled: {self.fill}")
        if self.region is not None:
            what = "their mean" if isinstance(self.by, str) and self.by == "mean" else "another image's"
            lines.append(f"features of a region replaced by {what}, {self.depth} block(s) before the end")
        return tuple(lines)


def as_patches(mask: Any, grid: tuple[int, int], crop: CropBox) -> NDArray[np.bool_]:
    """A mask over the patches [h, w] or the photo [H, W] as one over the patches, some of them in it.

    Of a mask over the photo, a patch is in it where it covers more than half of the pixels that the patch touches.

    Args:
        mask: bool.
        grid: patches (down, across).
        crop: the part of the photo that the patches show.

    Raises:
        OptionError: another shape or type, or no patch in it.
    """
    photo = crop.height, crop.width
    allowed = f"bool {list(grid)} over the patches, or {list(photo)} over the photo"
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape not in (grid, photo):
        got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise OptionError("not a mask of patches", got=got, allowed=allowed)
    if mask.shape != grid:
        rows, columns = _spans(crop.y0, crop.y1, grid[0]), _spans(crop.x0, crop.x1, grid[1])
        mask = np.array([[mask[row, column].mean() > 0.5 for column in columns] for row in rows])
    if not mask.any():
        raise OptionError("no patch in the mask", got="none mostly covered", allowed="one or more")
    return np.asarray(mask)


def _spans(start: float, stop: float, count: int) -> list[slice]:
    """Pixels along a side that each patch touches."""
    edges = np.linspace(start, stop, count + 1)
    first, last = np.floor(edges[:-1] + _EDGE).astype(int), np.ceil(edges[1:] - _EDGE).astype(int)
    return [slice(low, high) for low, high in zip(first, last, strict=True)]


def _pair(entry: Any) -> tuple[Any, Any]:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise OptionError("a head is (block, head), a part of a block (block, part)", got=repr(entry))
    return entry[0], entry[1]


def _index(what: str, value: Any, count: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < count:
        raise OptionError(f"no such {what}", got=repr(value), allowed=f"0..{count - 1}")
    return int(value)


def head_values_of(given: ArrayLike, manifest: Manifest) -> NDArray[np.float32]:
    """What stands in place of ablated heads, [L, D].

    Raises:
        OptionError: another shape, or not finite.
    """
    shape, values = (manifest.model.layers, manifest.model.width), np.asarray(given, np.float32)
    if values.shape != shape or not np.isfinite(values).all():
        raise OptionError("head_values are finite, a row for each block", got=list(values.shape), allowed=str(shape))
    return values
