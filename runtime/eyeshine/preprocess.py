"""From an image to the graph's input, as open_clip prepares it: resize, crop at the centre, scale to 0..1.

Mean and standard deviation are not here: the graph holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eyeshine.errors import ImageError, OptionError

__all__ = ["CropBox", "Interpolation", "Prepared", "Preprocess", "Resize"]

Resize = Literal["shortest", "squash", "keep"]
"""``"shortest"``: cover the input size, keep the proportions, crop the centre. ``"squash"``: stretch to the size.
``"keep"``: each side to the nearest number of whole patches, nothing cropped; for graphs of any size."""

Interpolation = Literal["bicubic", "bilinear"]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MAX_RESIZED = 64_000_000  # pixels of the resized image before the crop, 256 MB in Pillow


@dataclass(frozen=True)
class CropBox:
    """The region of an image that the model saw, in pixels of that image (pixel i covers i..i+1).

    Args:
        y0: upper edge.
        y1: lower edge.
        x0: left edge.
        x1: right edge.
        height: of the image.
        width: of the image.

    Raises:
        OptionError: an empty region, or one outside the image.
    """

    y0: float
    y1: float
    x0: float
    x1: float
    height: int
    width: int

    def __post_init__(self) -> None:
        if not (0 <= self.y0 < self.y1 <= self.height and 0 <= self.x0 < self.x1 <= self.width):
            got = f"rows {self.y0}..{self.y1}, columns {self.x0}..{self.x1}"
            raise OptionError("not a region of the image", got=got, allowed=f"within {self.height}x{self.width}")

    @classmethod
    def whole(cls, height: int, width: int) -> CropBox:
        """The whole of an image."""
        return cls(0.0, float(height), 0.0, float(width), height, width)


@dataclass(frozen=True)
class Prepared:
    """An image as the graph wants it.

    Args:
        pixels: float32 ``[3, h, w]``, RGB in 0..1.
        crop: the region of the image that they show.
    """

    pixels: NDArray[np.float32]
    crop: CropBox


@dataclass(frozen=True)
class Preprocess:
    """How a model's images are prepared; equal to open_clip's ``image_transform(is_train=False)`` before ``Normalize``.

    Args:
        size: height and width of the model's own input, in pixels.
        resize: see :data:`Resize`.
        interpolation: the resampling filter, always with antialiasing. open_clip resamples bicubically, whatever is
            set, where ``resize`` is ``"shortest"`` and the input is not square; so does this.
        patch: of "keep": height and width of a patch, in pixels.
        limit: of "keep": longer shorter sides are first brought to so many pixels; None for no limit.

    Raises:
        OptionError: a size or a name outside what is allowed.
    """

    size: tuple[int, int]
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    patch: tuple[int, int] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.size, tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in self.size)
        if not whole or len(self.size) != 2 or not all(1 <= n <= 4096 for n in self.size):
            raise OptionError("not an input size", got=repr(self.size), allowed="(height, width), each 1..4096")
        if self.resize not in get_args(Resize):
            raise OptionError("unknown way to resize", got=repr(self.resize), allowed=", ".join(get_args(Resize)))
        if self.interpolation not in get_args(Interpolation):
            allowed = ", ".join(get_args(Interpolation))
            raise OptionError("unknown interpolation", got=repr(self.interpolation), allowed=allowed)
        if (self.resize == "keep") != (self.patch is not None) or (self.limit is not None and self.patch is None):
            got = f"resize {self.resize}, patch {self.patch}, limit {self.limit}"
            raise OptionError("a patch and a limit belong to resize keep", got=got, allowed="both or neither")
        if self.patch is not None and not all(isinstance(n, int) and 1 <= n <= 4096 for n in self.patch):
            raise OptionError("not a patch", got=repr(self.patch), allowed="(height, width), each 1..4096")
        if self.limit is not None and not (isinstance(self.limit, int) and 1 <= self.limit <= 65536):
            raise OptionError("not a limit in pixels", got=repr(self.limit), allowed="1..65536")

    def as_manifest(self) -> dict[str, Any]:
        """Plain values for a bundle's manifest; :meth:`from_manifest` reads them."""
        values: dict[str, Any] = {"size": list(self.size), "resize": self.resize, "interpolation": self.interpolation}
        if self.patch is not None:
            values |= {"patch": list(self.patch), "limit": self.limit}
        return values

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> Preprocess:
        """The reverse of :meth:`as_manifest`.

        Raises:
            OptionError: missing or unknown keys, or values outside what is allowed.
        """
        keys = {"size", "resize", "interpolation"}
        if set(values) - {"patch", "limit"} != keys:
            raise OptionError("not image settings", got=sorted(values), allowed=f"exactly {sorted(keys)}")
        given: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
        return cls(**given)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Resize, crop and scale an image.

        Args:
            image: uint8 ``[H, W, 3]``, RGB.

        Returns:
            The graph's input, and the region of ``image`` that it shows.

        Raises:
            ImageError: not uint8 ``[H, W, 3]``, or an image so elongated that resizing it would fill the memory.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError("not an RGB image", got=f"{image.dtype} {list(image.shape)}", allowed="uint8 [H,W,3]")
        height, width = image.shape[:2]
        rows, columns = self._resized(height, width)
        if rows * columns > _MAX_RESIZED:
            raise ImageError(
                "the image is too elongated",
                got=f"{width}x{height}",
                cure="crop it to what matters, or --resize squash",
            )
        h, w = (rows, columns) if self.resize == "keep" else self.size
        top, left = _centre(rows, h), _centre(columns, w)
        resized = _resample(image, rows, columns, self._filter())[top : top + h, left : left + w]
        pixels = np.empty((3, h, w), np.float32)
        np.divide(resized.transpose(2, 0, 1), np.float32(255), out=pixels)
        # Multiply before dividing: the last edge is then the image's own, to the bit.
        y0, y1 = top * height / rows, (top + h) * height / rows
        x0, x1 = left * width / columns, (left + w) * width / columns
        return Prepared(pixels, CropBox(y0, y1, x0, x1, height, width))

    def _filter(self) -> Image.Resampling:
        proportional = self.resize == "shortest" and self.size[0] != self.size[1]
        return _FILTERS["bicubic" if proportional else self.interpolation]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize, before the crop."""
        h, w = self.size
        if self.resize == "squash":
            return h, w
        if self.patch is not None:
            shrink = 1.0 if self.limit is None else min(1.0, self.limit / min(height, width))
            rows, columns = (_whole(n * shrink, p) for n, p in zip((height, width), self.patch, strict=True))
            return rows, columns
        if h == w:  # torchvision's Resize: the short side exactly, the long side cut down to an integer
            long = int(h * max(height, width) / min(height, width))
            return (h, long) if height <= width else (long, h)
        scale = min(height / h, width / w)  # open_clip's ResizeKeepRatio: both sides rounded
        return round(height / scale), round(width / scale)


def _resample(image: NDArray[np.uint8], rows: int, columns: int, how: Image.Resampling) -> NDArray[np.uint8]:
    if image.shape[:2] == (rows, columns):
        return image
    return np.asarray(Image.fromarray(image).resize((columns, rows), how))


def _whole(length: float, patch: int) -> int:
    """The nearest number of whole patches, halves up and at least one, in pixels: floor(x/p + 1/2) p (Grad-ECLIP)."""
    return max(int(length / patch + 0.5), 1) * patch


def _centre(length: int, wanted: int) -> int:
    """First index of the centre crop, as torchvision rounds it (halves to even)."""
    return round((length - wanted) / 2.0)
