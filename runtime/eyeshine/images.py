"""Read an image from wherever it is into 8-bit RGB."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from eyeshine.errors import ImageError

__all__ = ["ImageLike", "load_image"]

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]
"""A path, the bytes of an image file or an open binary file, a PIL image, or an array (see :func:`load_image`)."""

_ORIENTATION = 0x0112  # the EXIF tag
_ARRAY_SHAPES = "[H,W], [H,W,1], [H,W,3] or [H,W,4]"
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, MemoryError)


def load_image(source: ImageLike, *, max_pixels: int = 100_000_000) -> NDArray[np.uint8]:
    """Read an image into 8-bit RGB, the right way up.

    EXIF orientation is applied; of an animation the first frame is taken. Transparent pixels are composited on white
    (CLIP's own code drops the alpha channel and so shows whatever colour is hidden beneath). 16-bit values are scaled
    to 8 bits.

    Args:
        source: a path; the bytes of an image file, or an open binary file; a PIL image; or an array [H,W], [H,W,1],
            [H,W,3] (RGB) or [H,W,4] (RGBA), uint8 in 0..255, uint16 in 0..65535 or float in 0..1.
        max_pixels: refuse images with more pixels, before they are decoded. Pillow refuses files of more than about
            179 million pixels in any case.

    Returns:
        uint8 ``[H, W, 3]``. An array that already is that, is returned as it is (shared memory).

    Raises:
        ImageError: a missing, damaged, truncated or empty image, one that is too large, or an array of another shape,
            type or range.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, max_pixels, "the image")
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(BytesIO(source), max_pixels, f"{len(source)} bytes")
    if isinstance(source, str | os.PathLike):
        return _from_file(_existing(source), max_pixels, str(source))
    if hasattr(source, "read"):
        return _from_file(source, max_pixels, str(getattr(source, "name", type(source).__name__)))
    allowed = "a path, the bytes of a file, an open binary file, a PIL image or a numpy array"
    raise ImageError("not an image", got=f"an object of type {type(source).__name__}", allowed=allowed)


def _existing(path: str | os.PathLike[str]) -> Path:
    if str(path).startswith(("http://", "https://")):
        raise ImageError("an address is not a file", got=path, cure="download the image and pass its path")
    found = Path(path)
    try:
        if found.is_file():
            return found
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        raise ImageError(f"not a path ({error})", got=repr(path)) from error
    what = "the image is a folder" if found.is_dir() else "no such image file"
    raise ImageError(what, got=path, cure="check the path")


def _from_file(file: Path | BinaryIO, max_pixels: int, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return _from_pil(image, max_pixels, name)
    except UnidentifiedImageError as error:
        raise ImageError("not an image, or of a format that Pillow cannot read", got=name) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"too large for Pillow ({error})", got=name, cure="make the image smaller") from error
    except _BROKEN as error:
        raise ImageError(f"the image cannot be read ({error})", got=name, cure="the file may be damaged") from error


def _from_pil(image: Image.Image, max_pixels: int, name: str) -> NDArray[np.uint8]:
    _check_size(image.height, image.width, max_pixels, name)
    try:
        image.load()
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "I" and image.format is None and _in_8_bits(np.asarray(image)):
            image = image.convert("L")  # made by convert("I"), not read from a file of 16 bits
        if image.mode.startswith("I"):  # "I;16", and "I" as Pillow before 11.3 reads 16-bit files
            return _to_rgb(_from_16_bits(np.asarray(image)))
        if image.mode == "F":
            return _to_rgb(_from_float(np.asarray(image)))
        if image.has_transparency_data:
            return _to_rgb(np.asarray(image.convert("RGBA")))
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except _BROKEN as error:
        raise ImageError(f"the image cannot be decoded ({error})", got=name, cure="the file may be damaged") from error


def _from_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        cure = "move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else None
        raise ImageError(
            "an array of a shape that is no image", got=list(array.shape), allowed=_ARRAY_SHAPES, cure=cure
        )
    _check_size(array.shape[0], array.shape[1], max_pixels, "the array")
    if array.dtype == np.uint8:
        return _to_rgb(array)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return _to_rgb(_from_16_bits(array))
    if np.issubdtype(array.dtype, np.floating):
        return _to_rgb(_from_float(array))
    allowed = "uint8 in 0..255, uint16 in 0..65535, float in 0..1"
    raise ImageError(
        "an array of a type that is no image", got=array.dtype, allowed=allowed, cure="convert it to uint8"
    )


def _check_size(height: int, width: int, max_pixels: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError("the image has no pixels", got=f"{width}x{height} ({name})")
    if height * width > max_pixels:
        got = f"{width}x{height} = {height * width:,} pixels ({name})"
        cure = "make the image smaller"
        raise ImageError("the image is too large", got=got, allowed=f"up to {max_pixels:,} pixels", cure=cure)


def _in_8_bits(values: NDArray[Any]) -> bool:
    return values.size > 0 and int(values.min()) >= 0 and int(values.max()) <= 255


def _from_16_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError("values outside 16 bits", got=f"{low}..{high}", allowed="0..65535")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _from_float(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):  # a NaN fails both comparisons
        cure = "divide by 255, or pass uint8" if 1.0 < high <= 255.0 and low >= 0.0 else "scale the values to 0..1"
        raise ImageError("a float image outside 0..1", got=f"{low:g}..{high:g}", allowed="0..1", cure=cure)
    scaled: NDArray[np.uint8] = np.rint(values.astype(np.float32) * 255.0).astype(np.uint8)
    return scaled


def _to_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """8-bit grey, RGB or RGBA as contiguous RGB, alpha composited on white."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 4:
        alpha = image[:, :, 3:].astype(np.uint16)
        on_white = image[:, :, :3] * alpha + 255 * (255 - alpha)  # at most 255², which fits 16 bits
        return ((on_white + np.uint16(127)) // np.uint16(255)).astype(np.uint8)
    return np.ascontiguousarray(image)
