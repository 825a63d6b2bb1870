"""The image with more and more of its hottest pixels changed: what the curves encode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eyeshine.checks import check_choice, check_whole
from eyeshine.errors import OptionError
from eyeshine.fills import Fill, filled
from eyeshine.metrics.case import Case

__all__ = ["Canvas", "Steps", "hottest_first"]

Array = NDArray[np.float32]
Canvas = Literal["input", "native"]


@dataclass(frozen=True)
class Steps:
    """Pixels are changed from the hottest to the coldest, and the image is encoded ``points`` times on the way.

    Pixels of equal heat come in an order drawn from ``seed``. ReLU maps are zero on most of an image, and there any
    fixed order is one by place: row by row it would delete the sky before the street, whatever the map says.

    Attributes:
        insert: show the hottest pixels on an empty canvas, rather than delete them from the image.
        fill: what deleted pixels become, and what the empty canvas is: the "mean" colour, "black", the image under
            RISE's 11 pixel "blur" (zeros beyond the edge, after normalisation), or "random" colours, one per pixel.
        points: how often, 1..4096.
        until: share of the pixels changed at the last point, 0..1.
        by_patch: change whole patches, rounded to the nearest number of them.
        canvas: "input", the model's input; or "native", the photo, which is then prepared anew each time.
        shortest_px: shrink a native canvas whose shorter side is longer; None leaves it.
        origin: let the curve of an insertion begin at the empty canvas; that of a deletion always begins at the image.
        substeps: change the pixels of a point in so many equal steps of whole pixels; 0 takes the exact share.
        seed: of the order of ties, and of random colours.
    """

    insert: bool = False
    fill: Fill = "mean"
    points: int = 224
    until: float = 1.0
    by_patch: bool = False
    canvas: Canvas = "input"
    shortest_px: int | None = None
    origin: bool = True
    substeps: int = 0
    seed: int = 0

    uses_map: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("fill", self.fill, get_args(Fill))
        check_choice("canvas", self.canvas, get_args(Canvas))
        check_whole("points", self.points, 1, 4096)
        check_whole("substeps", self.substeps, 0, 4096)
        check_whole("seed", self.seed, 0, 2**32)
        if not 0 < self.until <= 1:
            raise OptionError("until is a share of the pixels", got=self.until, allowed="0..1, 0 excluded")
        if self.by_patch and (self.canvas == "native" or self.substeps):
            raise OptionError("patches are changed whole and on the model's input", cure="canvas='input', substeps=0")
        if self.shortest_px is not None:
            check_whole("shortest_px", self.shortest_px, 1, 4096)

    @property
    def places(self) -> range:
        """The points that are encoded; the last of a complete insertion is the image itself, which is encoded once."""
        first = 0 if self.insert and self.origin else 1
        return range(first, self.points + (not (self.insert and self.until == 1)))

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.places)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the image that is changed at each of ``places``."""
        return tuple(self.until * k / self.points for k in self.places)

    def frames(self, case: Case) -> Iterator[Array]:
        """One canvas, written over from point to point."""
        image, heat = (case.pixels, case.heat()) if self.canvas == "input" else self._native(case)
        rng = np.random.default_rng(self.seed)
        order, counts = self._patches(case, rng) if self.by_patch else self._pixels(heat, rng)
        other = filled(image, self.fill, case.mean, rng)
        canvas, source = (other, image) if self.insert else (image.copy(), other)
        flat, new, done = canvas.reshape(3, -1), source.reshape(3, -1), 0
        for count in counts:
            changed = order[done:count]
            # Channel by channel: indexing the last axis of all three at once is several times as slow.
            for channel in range(3):
                flat[channel, changed] = new[channel, changed]
            done = count
            yield canvas if self.canvas == "input" else case.preprocess.prepare(_as_photo(canvas)).pixels

    def _pixels(self, heat: Array, rng: np.random.Generator) -> tuple[NDArray[np.intp], list[int]]:
        """Pixels in order, and how many are changed at each place."""
        if self.substeps:
            at_once = int(heat.size * self.until / (self.points * self.substeps)) * self.substeps
            return hottest_first(heat, rng), [at_once * k for k in self.places]
        return hottest_first(heat, rng), [round(heat.size * share) for share in self.shares]

    def _patches(self, case: Case, rng: np.random.Generator) -> tuple[NDArray[np.intp], list[int]]:
        """As ``_pixels``, patch by patch; pixels of no patch are never changed."""
        height, width = case.pixels.shape[1:]
        rows, columns = case.map.shape
        side = int(case.box.y1) // rows, int(case.box.x1) // columns
        pixel = np.arange(height * width).reshape(height, width)[: rows * side[0], : columns * side[1]]
        of_patch = pixel.reshape(rows, side[0], columns, side[1]).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
        order = of_patch[hottest_first(case.map, rng)].ravel()
        return order, [round(rows * columns * share) * of_patch.shape[1] for share in self.shares]

    def _native(self, case: Case) -> tuple[Array, Array]:
        photo = case.photo
        if self.shortest_px is not None and min(photo.shape[:2]) > self.shortest_px:
            factor = self.shortest_px / min(photo.shape[:2])
            height, width = (int(length * factor) for length in photo.shape[:2])
            photo = np.asarray(Image.fromarray(photo).resize((width, height)))
        image = photo.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return image, case.heat_on_photo(photo.shape[:2])


def hottest_first(heat: Array, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of the flattened heat from the hottest to the coldest, equal ones in random order."""
    shuffled = rng.permutation(heat.size)
    order: NDArray[np.intp] = shuffled[np.argsort(-heat.ravel()[shuffled], kind="stable")]
    return order


def _as_photo(canvas: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rint(canvas * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
