"""What a call asks for, checked and prepared before any graph runs; and the clock of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.concept import ContrastOptions
from eyeshine.errors import ImageError, InputError, OptionError
from eyeshine.images import ImageLike, load_image
from eyeshine.manifest import Manifest
from eyeshine.methods import AnyMethod, get_method
from eyeshine.preprocess import CropBox, Prepared, Preprocess
from eyeshine.targets import Against, Target, make_target
from eyeshine.texts import check_texts

__all__ = ["Clock", "Request", "as_list", "make_request", "seen", "stack"]


class Clock:
    """Times the parts of a call, one after the other."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self._parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """What passed since the last lap was spent on ``part``."""
        now = perf_counter()
        self._parts[part] = (now - self._last) * 1e3
        self._last = now

    def skip(self) -> None:
        """What passed since the last lap is no part of this call."""
        now = perf_counter()
        self._started += now - self._last
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds of every part and in total."""
        return {**self._parts, "total": (self._last - self._started) * 1e3}


@dataclass(frozen=True)
class Request:
    """Images and texts of one call.

    Attributes:
        method: how to explain.
        texts: the P texts.
        target: what of them is explained; the texts alone where a contrast is still to be chosen.
        contrast: how it is to be chosen, or None.
        photos: uint8 [H, W, 3] each.
        crops: the part of each that the model sees.
        pixels: float32 [B, 3, Y, X], what the graph takes.
    """

    method: AnyMethod
    texts: tuple[str, ...]
    target: Target
    contrast: ContrastOptions | None
    photos: tuple[NDArray[np.uint8], ...]
    crops: tuple[CropBox, ...]
    pixels: NDArray[np.float32]


def make_request(
    images: ImageLike | Sequence[ImageLike],
    texts: Sequence[str],
    method: str | AnyMethod,
    against: Against,
    *,
    preprocess: Preprocess,
    manifest: Manifest,
) -> Request:
    """Check a call and prepare its images.

    Raises:
        ImageError, TextError, OptionError: what was passed in cannot be used.
    """
    chosen = get_method(method)
    listed = check_texts(texts)
    contrast = ContrastOptions() if isinstance(against, str) and against == "auto" else against
    automatic = contrast if isinstance(contrast, ContrastOptions) else None
    target = make_target(listed, None if automatic else against)
    if against is not None and not chosen.uses_text:
        what = f"method {chosen.name} does not depend on the text"
        raise OptionError(what, got="against", cure="leave against out")
    photos = [_own(load_image(image), image) for image in as_list(images)]
    prepared = [preprocess.prepare(photo) for photo in photos]
    return Request(
        method=chosen,
        texts=tuple(listed),
        target=target,
        contrast=automatic,
        photos=tuple(photos),
        crops=tuple(seen(item.crop, manifest) for item in prepared),
        pixels=stack(prepared),
    )


def stack(prepared: Sequence[Prepared]) -> NDArray[np.float32]:
    """Prepared images as one batch [B, 3, Y, X].

    Raises:
        ImageError: images of several sizes, which resize "keep" makes of photos of several sizes.
    """
    sizes = list(dict.fromkeys(item.pixels.shape[1:] for item in prepared))
    if len(sizes) > 1:
        raise ImageError(
            "images of one call must be of one size", got=", ".join(f"{rows}x{columns}" for rows, columns in sizes[:4]),
            cure='explain them one after the other, or let them be resized: resize "squash" or "shortest"',
        )  # fmt: skip
    return np.stack([item.pixels for item in prepared])


def as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image or a sequence of them, as a list; an array is one image."""
    if isinstance(images, list | tuple):
        if not images:
            raise InputError("no image to explain", got="an empty list", allowed="one image or more")
        return list(images)
    return [cast(ImageLike, images)]


def _own(photo: NDArray[np.uint8], source: object) -> NDArray[np.uint8]:
    """A copy where the caller's own array came through: a camera loop may write its next frame into it."""
    return photo.copy() if isinstance(source, np.ndarray) and np.may_share_memory(photo, source) else photo


def seen(crop: CropBox, manifest: Manifest) -> CropBox:
    """The part of a crop that fills whole patches; the graph drops pixels that do not."""
    model, grid = manifest.model, manifest.grid
    rows, columns = (g * p / n for g, p, n in zip(grid, model.patch_size, model.image_size, strict=True))
    if rows == columns == 1:
        return crop
    y1, x1 = crop.y0 + (crop.y1 - crop.y0) * rows, crop.x0 + (crop.x1 - crop.x0) * columns
    return CropBox(crop.y0, y1, crop.x0, x1, crop.height, crop.width)
