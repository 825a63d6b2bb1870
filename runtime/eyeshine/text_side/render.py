"""Coloured texts: orange where a token speaks for the image, blue where it speaks against it.

Drawn over the cleaned text, with what stands between tokens (and what was cut off) left as it is. The strength of a
colour is that of ``TextExplanation.levels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eyeshine.tokenizer import Pieces
from eyeshine.upsample import Scale

if TYPE_CHECKING:
    from rich.text import Text

    from eyeshine.text_side.result import TextExplanation

__all__ = ["cells", "html", "picture", "terminal", "tint"]

Colour = tuple[int, int, int]

_PAPER, _INK, _FAINT = (250, 249, 247), (28, 26, 32), (110, 106, 116)
_FOR, _AGAINST = (240, 120, 20), (30, 100, 200)  # told apart by every kind of colour blindness
_DARK: Final = 110  # on a background below this lightness, 0..255, letters are light
_WIDTH, _GAP, _SIZE = 900, 16, 24  # pixels
_LINE: Final = 40


def tint(level: float) -> Colour:
    """The background of a token: from paper to orange (1) or blue (-1)."""
    towards, share = (_FOR if level > 0 else _AGAINST), min(abs(level), 1.0)
    red, green, blue = (round(p + share * (c - p)) for p, c in zip(_PAPER, towards, strict=True))
    return red, green, blue


def ink(background: Colour) -> Colour:
    """The colour of letters that can be read on a background."""
    return _PAPER if np.dot(background, (0.299, 0.587, 0.114)) < _DARK else _INK


def cells(pieces: Pieces, levels: NDArray[np.float32]) -> list[tuple[str, float]]:
    """The cleaned text in parts, each with its level; 0 between tokens.

    Tokens that spell one character together are one part, with the level of the strongest.
    """
    parts: list[tuple[str, float]] = []
    done = 0
    for (begin, stop), level in zip(pieces.spans, levels.tolist(), strict=True):
        if stop <= done:
            before, stronger = parts[-1], max(parts[-1][1], level, key=abs)
            parts[-1] = (before[0], stronger)
            continue
        if begin > done:
            parts.append((pieces.text[done:begin], 0.0))
        parts.append((pieces.text[max(begin, done) : stop], level))
        done = stop
    return [*parts, (pieces.text[done:], 0.0)] if done < len(pieces.text) else parts


def terminal(explanation: TextExplanation, image: int, scale: Scale | None) -> list[Text]:
    """Each text for ``rich``'s console; tokens without relevance have no background."""
    from rich.text import Text

    lines = []
    for parts in _texts(explanation, image, scale):
        line = Text()
        for text, level in parts:
            background = tint(level)
            style = f"#{_hex(ink(background))} on #{_hex(background)}"
            line.append(text, style if level else None)
        lines.append(line)
    return lines


def html(explanation: TextExplanation, image: int, scale: Scale | None) -> str:
    """Each text as a paragraph, its cosine before it; the strength of a token's colour is its tool tip."""
    rows = []
    for prompt, parts in enumerate(_texts(explanation, image, scale)):
        spans = []
        for text, level in parts:
            background = tint(level)
            style = f"background:#{_hex(background)};color:#{_hex(ink(background))};border-radius:3px"
            shown = escape(text)
            spans.append(f'<span style="{style}" title="{level:+.2f}">{shown}</span>' if level else shown)
        cosine = f'<code style="color:#{_hex(_FAINT)}">{explanation.similarities[image, prompt]:+.3f}</code>'
        rows.append(f'<p dir="auto">{cosine} ' + "".join(spans) + "</p>")
    style = f"background:#{_hex(_PAPER)};color:#{_hex(_INK)};font:18px/1.7 sans-serif;padding:8px 16px"
    return f'<div class="eyeshine-text" style="{style}">\n' + "\n".join(rows) + "\n</div>\n"


def picture(explanation: TextExplanation, image: int, scale: Scale | None) -> Image.Image:
    """Each text with its cosine, broken into lines, on a page of one width.

    The font is Pillow's own; characters that it lacks (it holds Latin ones) are drawn as empty boxes, from left to
    right whatever their script: the page of HTML shows such texts.
    """
    font, small = ImageFont.load_default(_SIZE), ImageFont.load_default(16)
    left = _GAP + round(small.getlength("+0.000")) + _GAP
    laid = [_lay(parts, font, _WIDTH - left - _GAP) for parts in _texts(explanation, image, scale)]
    height = sum(_LINE * (1 + rows[-1][1]) + _GAP for rows in laid) + _GAP
    page = Image.new("RGB", (_WIDTH, height), _PAPER)
    pen, top = ImageDraw.Draw(page), _GAP
    for prompt, rows in enumerate(laid):
        cosine = f"{explanation.similarities[image, prompt]:+.3f}"
        pen.text((_GAP, top + _LINE // 2), cosine, fill=_FAINT, font=small, anchor="lm")
        for x, line, text, level in rows:
            background, above = tint(level), top + line * _LINE
            box = (left + x, above + 3, left + x + font.getlength(text), above + _LINE - 3)
            if level:
                pen.rectangle(box, fill=background)
            pen.text((left + x, above + _LINE // 2), text, fill=ink(background), font=font, anchor="lm")
        top += _LINE * (1 + rows[-1][1]) + _GAP
    return page


def _lay(
    parts: Sequence[tuple[str, float]], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[tuple[float, int, str, float]]:  # fmt: skip
    """Parts with their places: (pixels from the left, line, text, level); parts wider than a line are broken."""
    placed: list[tuple[float, int, str, float]] = []
    x, line = 0.0, 0
    for part, level in parts:
        text = part
        if x and x + font.getlength(text) > width:
            x, line, text = 0.0, line + 1, text.lstrip()
        while text:
            fits = next(n for n in range(len(text), 0, -1) if n == 1 or font.getlength(text[:n]) <= width - x)
            placed.append((x, line, text[:fits], level))
            x, text = x + font.getlength(text[:fits]), text[fits:]
            if text:
                x, line = 0.0, line + 1
    return placed


def _texts(explanation: TextExplanation, image: int, scale: Scale | None) -> list[list[tuple[str, float]]]:
    levels = explanation.levels(image, scale)
    return [cells(pieces, each) for pieces, each in zip(explanation.pieces, levels, strict=True)]


def _hex(colour: Colour) -> str:
    return bytes(colour).hex()
