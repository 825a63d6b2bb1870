"""Pictures of Concept Attribution: which heads were chosen, and what a parameter does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eyeshine.concept.selection import HeadSelection
from eyeshine.render import COLOURS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["head_grid"]

_CELL, _LEFT, _TOP = 44, 84, 34
_PAPER, _INK, _FAINT = (250, 249, 247), (28, 26, 32), (110, 106, 116)


def head_grid(selection: HeadSelection, image: int = 0, prompt: int = 0, *, texts: Sequence[str] = ()) -> Picture:
    """A grid of heads, blocks downwards: colour is the z-score of the relevance, a number the order of choice.

    Args:
        selection: ``details["heads"]`` of an explanation.
        image, prompt: which map.
        texts: of the explanation, for the caption.

    Returns:
        An RGB picture.
    """
    z = selection.standardised[image, prompt]
    order = {int(index): number for number, index in enumerate(selection.indices[image, prompt], 1)}
    every = len(order) == z.size
    width, height = _LEFT + z.shape[1] * _CELL + 12, _TOP + (z.shape[0] + 1) * _CELL
    page = Image.new("RGB", (max(width, 400), height), _PAPER)
    draw = ImageDraw.Draw(page)
    small, large = ImageFont.load_default(13), ImageFont.load_default(16)
    caption = f"heads for {texts[prompt]!r}" if texts else "heads"
    draw.text((8, 8), caption, fill=_INK, font=large)
    most = max(float(np.abs(z).max()), 1e-6)
    for k, h in np.ndindex(z.shape):
        x, y = _LEFT + h * _CELL, _TOP + k * _CELL
        level = round(255 * (float(z[k, h]) / most + 1) / 2)
        colour = tuple(int(c) for c in COLOURS[level])
        draw.rectangle((x, y, x + _CELL - 3, y + _CELL - 3), fill=colour)
        number = order.get(k * z.shape[1] + h)
        if number and not every:
            ink = _INK if level > 150 else _PAPER
            draw.rectangle((x, y, x + _CELL - 3, y + _CELL - 3), outline=_INK, width=2)
            draw.text((x + (_CELL - 3) / 2, y + (_CELL - 3) / 2), str(number), fill=ink, font=large, anchor="mm")
    for k in range(z.shape[0]):
        block = selection.depth - selection.blocks + k
        draw.text((8, _TOP + k * _CELL + _CELL / 2), f"block {block}", fill=_FAINT, font=small, anchor="lm")
    for h in range(z.shape[1]):
        place = (_LEFT + h * _CELL + _CELL / 2, _TOP + z.shape[0] * _CELL + 4)
        draw.text(place, str(h), fill=_FAINT, font=small, anchor="mt")
    note = "all heads are taken" if every else "number: order of choice; colour: relevance (z-score)"
    draw.text((8, height - 18), note, fill=_FAINT, font=small)
    return page
