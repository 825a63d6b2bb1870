"""A picture of what a response rests on: arcs from earlier words, and a heat map for every word."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from eyeshine.captioner.attribution import strongest
from eyeshine.captioner.words import SPECIAL
from eyeshine.render import COLOURS, sheet

if TYPE_CHECKING:
    from eyeshine.captioner.explanation import ResponseExplanation

__all__ = ["draw"]

_PAPER, _INK, _FAINT = (250, 249, 247), (28, 26, 32), (150, 146, 156)
_COLUMNS: Final = 4
_CELL: Final = 240  # pixels, the width of a word's picture
_SIZE, _LIFT = 20, 150  # of the letters, and the height of the longest arc
_ARCS = 2  # per word


def draw(explanation: ResponseExplanation) -> Image.Image:
    """Words in a row under arcs from what they rest on; beneath, the image with a heat map for every word.

    An arc ends at the word that rests, the thicker and lighter the larger its share. The first heat map is that of the
    whole response.

    Returns:
        An RGB picture.
    """
    response = explanation.response
    cells = [(f"{explanation.prompt} - {response.text}", explanation.overlay())]
    for number, (word, share) in enumerate(zip(response.tokens, explanation.image_shares, strict=True)):
        chance = exp(response.logprobs[number])
        caption = f"{word}: probability {chance:.2f}, {100 * share:.0f} % image"
        cells.append((caption, explanation.overlay(number)))
    below = sheet(cells, columns=_COLUMNS, cell_width=_CELL)
    above = _arcs(explanation, below.width)
    page = Image.new("RGB", (max(above.width, below.width), above.height + below.height), _PAPER)
    page.paste(above, (0, 0))
    page.paste(below, (0, above.height))
    return page


def _arcs(explanation: ResponseExplanation, least: int) -> Image.Image:
    """The strip of words and arcs; as wide as its words need, ``least`` or more."""
    font = ImageFont.load_default(_SIZE)
    shown = [place for place, word in enumerate(explanation.words) if word not in SPECIAL]
    widths = {place: font.getlength(explanation.words[place]) + 16 for place in shown}
    width = max(least, round(sum(widths.values())) + 32)
    strip = Image.new("RGB", (width, _LIFT + 3 * _SIZE), _PAPER)
    pen, base = ImageDraw.Draw(strip), _LIFT + _SIZE
    middle, left = {}, 16.0
    for place in shown:
        middle[place] = left + widths[place] / 2
        colour = _INK if place >= explanation.first else _FAINT
        pen.text((middle[place], base + 4 + _SIZE), explanation.words[place], fill=colour, font=font, anchor="ms")
        left += widths[place]
    for number, read in enumerate(explanation.earlier):
        place, total = explanation.first + number, float(read.sum() + explanation.word_maps[number].sum())
        spoken = [before for before in strongest(read, len(read)) if before in middle and place in middle]
        for before in spoken[:_ARCS]:
            _arc(pen, middle[before], middle[place], base, float(read[before]) / total)
    return strip


def _arc(pen: ImageDraw.ImageDraw, start: float, stop: float, base: float, share: float) -> None:
    """Half an ellipse over the words; wider and hotter for a larger share (0..1)."""
    rise = min(_LIFT, 12 + (stop - start) * 0.35)
    red, green, blue = (int(channel) for channel in COLOURS[min(255, int(255 * share**0.5))])
    box = (start, base - rise, stop, base + rise)
    pen.arc(box, 180, 360, fill=(red, green, blue), width=1 + round(5 * share))
