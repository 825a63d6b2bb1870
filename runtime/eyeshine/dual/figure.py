"""The picture of a dual request: image, both maps, their difference, the numbers and the verdict."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eyeshine.dual.side import Side
from eyeshine.render import overlay, resize, sheet, strengths
from eyeshine.upsample import normalize_maps, to_image

if TYPE_CHECKING:
    from eyeshine.dual.result import Dual

__all__ = ["difference", "figure"]

_CELL, _GAP = 330, 16  # pixels; the gap is that of ``sheet``
_PAPER, _INK, _FAINT = (250, 249, 247), (28, 26, 32), (110, 106, 116)
_PROMPT, _ANSWER = (30, 100, 200), (240, 120, 20)  # blue and orange: told apart by every kind of colour blindness
_LINE: Final = 22


def figure(result: Dual) -> Image.Image:
    """One RGB picture, four pictures wide, the verdict above and the numbers below."""
    explanation = result.explanation
    photo = explanation.images[0]
    height = max(1, round(_CELL * photo.shape[0] / photo.shape[1]))
    small = resize(photo, (height, _CELL))
    heats = [
        to_image(normalize_maps(side.map[None])[0], explanation.crops[0], (height, _CELL))
        for side in (result.asked, result.said)
    ]
    cells = [
        ("the image", Image.fromarray(small)),
        (f"prompt: {_names(result.asked)}", overlay(small, heats[0])),
        (f"answer: {_names(result.said)}", overlay(small, heats[1])),
        ("blue: prompt, orange: answer", difference(small, heats[0], heats[1])),
    ]
    top = sheet(cells, title=result.verdict.name.capitalize(), columns=4, cell_width=_CELL)
    return _below(top, _lines(result))


def difference(image: NDArray[np.uint8], prompt: NDArray[np.float32], answer: NDArray[np.float32]) -> Image.Image:
    """Where one map is hotter than the other, over the image in grey.

    Args:
        image: uint8 [H, W, 3].
        prompt, answer: heat [H, W] in 0..1.
    """
    apart = np.clip(answer - prompt, -1.0, 1.0)
    grey = Image.fromarray(image).convert("L").convert("RGB")
    colour = np.where(apart[..., None] > 0, np.array(_ANSWER), np.array(_PROMPT)).astype(np.uint8)
    level = Image.fromarray(np.rint(np.abs(apart) * 255).astype(np.uint8))
    return Image.composite(Image.fromarray(colour), grey, level.point(strengths(0.9)))


def _names(side: Side) -> str:
    return ", ".join(concept.text for concept in side.concepts) or "names nothing"


def _lines(result: Dual) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines of text with their colours."""
    wide = 150
    lines = [(f"prompt: {result.asked.text!r}   answer: {result.said.text!r}", _INK)]
    if result.blind_answer is not None:
        lines.append((f"without the image: {result.blind_answer!r}", _INK))
    lines += [(f"{number}. {reason}", _INK) for number, reason in enumerate(result.verdict.reasons, 1)]
    for what, side in (("prompt", result.asked), ("answer", result.said)):
        lines += [(f"{what}: {text}", _FAINT) for text in _numbers(result, side)]
        lines += [(f"{what}: the model never saw {text!r}", _FAINT) for text in side.unknown]
    parts = {
        "cosine": result.comparison.cosine,
        "Pearson": result.comparison.pearson,
        "SSIM": result.comparison.ssim,
        f"IoU({result.asked.tau:g})": result.comparison.iou,
        "texts": result.signals.text_similarity,
    }
    alike = ", ".join(f"{name} {_number(value)}" for name, value in parts.items())
    nothing = "the maps cannot be compared: one has no contrast"
    lines.append((nothing if result.comparison.pearson is None else f"alike: {alike}", _FAINT))
    return [(part, ink) for text, ink in lines for part in textwrap.wrap(text, wide, subsequent_indent="    ")]


def _numbers(result: Dual, side: Side) -> list[str]:
    found = []
    for concept, odds, shape in zip(side.concepts, side.presence, side.shapes, strict=True):
        text = (
            f"{concept.text}, log odds {odds:.1f}, {shape.focus:.0%} of the energy hot, {shape.largest:.0%} in a region"
        )
        if result.evaluation is not None:
            drop, suppression = (result.score(name, concept.text) for name in ("concept_drop", "negative_suppression"))
            text += f", Concept Drop {_number(drop)}, Negative Suppression {_number(suppression)}"
        found.append(text)
    return found


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _below(top: Image.Image, lines: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    page = Image.new("RGB", (top.width, top.height + _LINE * len(lines) + _GAP), _PAPER)
    page.paste(top, (0, 0))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for number, (text, ink) in enumerate(lines):
        draw.text((_GAP, top.height + number * _LINE), text, fill=ink, font=font)
    return page
