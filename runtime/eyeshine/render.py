"""Pictures: a heat map over its image, and a labelled sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eyeshine.errors import OptionError, OutputError

__all__ = ["COLOURS", "Cell", "overlay", "resize", "save_png", "sheet", "strengths"]

Cell: TypeAlias = tuple[str, Image.Image]
"""A caption and the picture beneath it."""

# Violet to pale yellow over red: lightness rises all the way, so the order survives colour blindness and grey prints.
_ANCHORS = ((38, 12, 92), (116, 24, 140), (214, 42, 96), (250, 128, 32), (255, 240, 110))


def _colours() -> NDArray[np.uint8]:
    anchors = np.array(_ANCHORS, np.float64)
    places = np.linspace(0.0, 1.0, len(anchors))
    table = np.stack([np.interp(np.linspace(0.0, 1.0, 256), places, channel) for channel in anchors.T], axis=1)
    rounded: NDArray[np.uint8] = np.rint(table).astype(np.uint8)
    return rounded


COLOURS: NDArray[np.uint8] = _colours()
"""uint8 ``[256, 3]``: the colour of each level of heat, from 0 to 1."""
COLOURS.setflags(write=False)

_PAPER, _INK, _FAINT = (250, 249, 247), (28, 26, 32), (110, 106, 116)
_GAP = 16  # pixels between the parts of a sheet
_SLACK = 1e-3  # interpolation leaves 0..1 by float rounding only


def overlay(
    image: NDArray[np.uint8], heat: NDArray[np.float32], *, alpha: float = 0.9, mute: float = 0.5
) -> Image.Image:
    """Lay a heat map over its image: the hotter, the more of the colour and the less of the photograph.

    Args:
        image: uint8 ``[H, W, 3]``.
        heat: float32 ``[H, W]`` in 0..1; where it is 0 nothing is laid over the image.
        alpha: 0..1, how much of the colour the hottest pixel takes.
        mute: 0..1, how far the photograph is taken towards grey first, so that its own colours are not read as heat;
            0 leaves it as it is.

    Returns:
        An RGB picture of the image's size.

    Raises:
        OptionError: heat of another size or outside 0..1, or ``alpha`` or ``mute`` outside 0..1.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != heat.shape:
        got = f"image {image.dtype} {list(image.shape)}, heat {list(heat.shape)}"
        raise OptionError("image and heat do not match", got=got, allowed="uint8 [H,W,3] and float32 [H,W]")
    low, high = float(heat.min(initial=0.0)), float(heat.max(initial=0.0))
    if not (low >= -_SLACK and high <= 1.0 + _SLACK):
        raise OptionError("heat outside 0..1", got=f"{low:g}..{high:g}", allowed="0..1", cure="use normalize_maps")
    for name, value in (("alpha", alpha), ("mute", mute)):
        if not 0.0 <= value <= 1.0:
            raise OptionError(f"{name} outside its range", got=value, allowed="0..1")
    # Pillow's 8-bit blends: 1.9 ms for 640x480, where 16-bit sums in numpy took 4.0 ms without the muting.
    photo = Image.fromarray(image)
    if mute > 0.0:
        photo = Image.blend(photo, photo.convert("L").convert("RGB"), mute)
    level = Image.fromarray(np.clip(np.rint(heat * np.float32(255)), 0, 255).astype(np.uint8))
    colour = level.copy()
    colour.putpalette(COLOURS.tobytes())
    return Image.composite(colour.convert("RGB"), photo, level.point(strengths(alpha)))


def strengths(alpha: float) -> list[int]:
    """The share of colour, 0..255, at each level of heat.

    Smoothstep: no colour and no edge at the cold end, and the hot end is told apart by colour alone.
    """
    levels = np.linspace(0.0, 1.0, 256)
    shares: list[int] = np.rint(alpha * 255.0 * levels * levels * (3.0 - 2.0 * levels)).astype(int).tolist()
    return shares


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image at another size, for a picture (not for a model: see :class:`eyeshine.preprocess.Preprocess`).

    Args:
        image: uint8 ``[H, W, 3]``.
        size: height and width wanted, each 1 or more.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        OptionError: an empty size.
    """
    height, width = size
    if height < 1 or width < 1:
        raise OptionError("not an image size", got=size, allowed="(height, width), each 1 or more")
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def sheet(
    cells: Sequence[Cell], *, title: str | None = None, columns: int = 3, cell_width: int = 360, legend: bool = True
) -> Image.Image:
    """A contact sheet: pictures in a grid, each beneath its caption.

    The font is Pillow's own; characters that it lacks (it holds Latin ones) are drawn as empty boxes.

    Args:
        cells: captions and pictures, row by row; pictures are scaled to ``cell_width``.
        title: a line above all.
        columns: pictures per row, 1 or more.
        cell_width: of a picture, in pixels, 64 or more.
        legend: draw the colours of heat, from low to high, at the foot.

    Returns:
        An RGB picture.

    Raises:
        OptionError: no cells, or ``columns`` or ``cell_width`` outside what is allowed.
    """
    if not cells:
        raise OptionError("a sheet without pictures", got=0, allowed="1 or more cells")
    if columns < 1 or cell_width < 64:
        got = f"columns={columns}, cell_width={cell_width}"
        raise OptionError("not a sheet", got=got, allowed="columns 1 or more, cell_width 64 or more")
    columns = min(columns, len(cells))
    drawn = [_draw_cell(caption, picture, cell_width) for caption, picture in cells]
    rows = [drawn[first : first + columns] for first in range(0, len(drawn), columns)]
    width = columns * (cell_width + _GAP) - _GAP
    parts = [_text_block(title, width, 26, _INK)] if title else []
    parts += [_row(row, width) for row in rows]
    if legend:
        parts.append(_legend(width))
    return _stack(parts, width)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a picture as PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        image.save(path, format="PNG")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise OutputError(f"cannot write the picture ({error})", got=path, cure="check folder and rights") from error


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Break ``text`` at spaces into at most ``most`` lines no wider than ``width``; an ellipsis ends what is cut."""
    lines, words = [""], text.split()
    while words:
        longer = f"{lines[-1]} {words[0]}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            words.pop(0)
        elif lines[-1] and len(lines) < most:
            lines.append("")
        else:
            cut = longer
            while cut and font.getlength(f"{cut}…") > width:
                cut = cut[:-1]
            lines[-1] = f"{cut.rstrip()}…"
            break
    return lines


def _text_block(text: str, width: int, size: int, ink: tuple[int, int, int], most: int = 3) -> Image.Image:
    font = _font(size)
    lines = _wrap(text, font, width, most)
    pitch = round(size * 1.3)
    block = Image.new("RGB", (width, pitch * len(lines)), _PAPER)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, number * pitch), line, fill=ink, font=font)
    return block


def _draw_cell(caption: str, picture: Image.Image, width: int) -> tuple[Image.Image, Image.Image]:
    height = max(1, round(picture.height * width / picture.width))
    scaled = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return _text_block(caption, width, 18, _INK), scaled


def _row(cells: Sequence[tuple[Image.Image, Image.Image]], width: int) -> Image.Image:
    """Captions stand on a common line, pictures hang from it."""
    above = max(caption.height for caption, _ in cells) + 4
    row = Image.new("RGB", (width, above + max(picture.height for _, picture in cells)), _PAPER)
    for number, (caption, picture) in enumerate(cells):
        left = number * (picture.width + _GAP)
        row.paste(caption, (left, above - 4 - caption.height))
        row.paste(picture, (left, above))
    return row


def _legend(width: int) -> Image.Image:
    font, length = _font(14), min(256, width // 2)
    strip = Image.new("RGB", (width, 20), _PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((0, 10), "low", fill=_FAINT, font=font, anchor="lm")
    left = round(font.getlength("low")) + 8
    bar = Image.fromarray(np.broadcast_to(COLOURS, (12, 256, 3)).copy()).resize((length, 12))
    strip.paste(bar, (left, 4))
    draw.text((left + length + 8, 10), "high", fill=_FAINT, font=font, anchor="lm")
    return strip


def _stack(parts: Sequence[Image.Image], width: int) -> Image.Image:
    height = sum(part.height + _GAP for part in parts) + _GAP
    page = Image.new("RGB", (width + 2 * _GAP, height), _PAPER)
    top = _GAP
    for part in parts:
        page.paste(part, (_GAP, top))
        top += part.height + _GAP
    return page
