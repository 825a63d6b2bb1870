"""Pictures of a study: mean curves of the methods, and an image that is occluded patch by patch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eyeshine.errors import OptionError
from eyeshine.metrics import Steps
from eyeshine.metrics.truth import Truth, cases
from eyeshine.render import Cell, sheet

if TYPE_CHECKING:
    from eyeshine.datasets import Content
    from eyeshine.explainer import Explainer
    from eyeshine.methods import AnyMethod

__all__ = ["chart", "degradation_strip"]

Array = NDArray[np.float64]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 900, 460, 70, 44, 220, 44
_PAPER, _INK, _FAINT, _LINE = (250, 249, 247), (28, 26, 32), (110, 106, 116), (224, 220, 216)
# Hues that colour-blind readers tell apart (Okabe and Ito); methods beyond the eighth repeat them, dashed.
_HUES = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (90, 90, 90),
    (150, 130, 0),
)
_STEPS: Final = Steps(points=5, until=0.25, by_patch=True)


def chart(title: str, shares: Sequence[float], curves: Mapping[str, Array], unit: str) -> Image.Image:
    """Mean curves over the share that is changed, one line per method, named at the right in their order.

    Args:
        title: above the chart.
        shares: [n], 0..1.
        curves: method -> [n].
        unit: of the scores.

    Returns:
        An RGB picture.

    Raises:
        OptionError: no curve, or one of another length than ``shares``.
    """
    if not curves or any(len(curve) != len(shares) for curve in curves.values()):
        got = {name: len(curve) for name, curve in curves.items()}
        raise OptionError("not curves over these shares", got=got, allowed=f"{len(shares)} points each")
    page = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw, small, large = ImageDraw.Draw(page), ImageFont.load_default(13), ImageFont.load_default(18)
    low = min(0.0, *(float(curve.min()) for curve in curves.values()))
    high = max(float(curve.max()) for curve in curves.values())
    high = high if high > low else low + 1.0
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(share: float, score: float) -> tuple[float, float]:
        return (
            _LEFT + (right - _LEFT) * share / max(shares),
            bottom - (bottom - _TOP) * (score - low) / (high - low),
        )

    draw.text((_LEFT, 12), title, fill=_INK, font=large)
    for tick in np.linspace(low, high, 5):
        _, y = place(0, float(tick))
        draw.line((_LEFT, y, right, y), fill=_LINE)
        draw.text((_LEFT - 8, y), f"{tick:.3g}", fill=_FAINT, font=small, anchor="rm")
    for tick in np.linspace(0, max(shares), 6):
        x, _ = place(float(tick), low)
        draw.text((x, bottom + 8), f"{100 * tick:.0f} %", fill=_FAINT, font=small, anchor="mt")
    draw.text((_LEFT, bottom + 26), f"share that is changed; {unit}", fill=_FAINT, font=small)
    for number, (name, curve) in enumerate(curves.items()):
        hue, dashed = _HUES[number % len(_HUES)], number >= len(_HUES)
        points = [place(share, float(score)) for share, score in zip(shares, curve, strict=True)]
        for piece, (a, b) in enumerate(_pieces(points, dashed)):
            if not dashed or piece % 2 == 0:
                draw.line((*a, *b), fill=hue, width=2)
        y = _TOP + (bottom - _TOP) * (number + 0.5) / max(len(curves), 8)
        draw.line((right + 14, y, right + 34, y), fill=hue, width=2)
        if dashed:
            draw.line((right + 22, y, right + 26, y), fill=_PAPER, width=2)
        draw.text((right + 40, y), name, fill=_INK, font=small, anchor="lm")
    return page


def _pieces(points: Sequence[tuple[float, float]], dashed: bool) -> Iterable[tuple[tuple[float, float], ...]]:
    """Pairs of points to draw; of a dashed line eight short pieces per pair."""
    for a, b in pairwise(points):
        cuts = np.linspace(0, 1, 9 if dashed else 2)
        along = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for t in cuts]
        yield from pairwise(along)


def degradation_strip(
    explainer: Explainer, content: Content, methods: Mapping[str, AnyMethod], *, truncate: bool = False
) -> Image.Image:
    """MMEL's figures 5 and 6: the image, then its hottest 5, 10, 15, 20 and 25 % of the patches occluded, a row each.

    The cosine with the sample's first text stands above every picture. Occluded patches take the mean colour.

    Args:
        explainer: of the model.
        content: a sample.
        methods: by the names that are shown.
        truncate: cut a text that is longer than the context.
    """
    cells: list[Cell] = []
    text = content.texts[0]
    vector = explainer.encode_texts([text], truncate=truncate)[0]
    for name, method in methods.items():
        found = explainer.explain(content.image, [text], method=method, truncate=truncate)
        (case,) = cases(explainer, found, Truth(None, None, None), truncate=truncate)
        frames = [case.pixels, *(frame.copy() for frame in _STEPS.frames(case))]
        embeddings = explainer.encoder(len(frames)).stream(frames)
        for share, frame, embedding in zip((0.0, *_STEPS.shares), frames, embeddings, strict=True):
            said = f"{name}: {share:.0%}" if share else f"{name}: image"
            picture = Image.fromarray(np.rint(frame.transpose(1, 2, 0) * 255).astype(np.uint8))
            cells.append((f"{said}, {float(embedding @ vector):+.3f}", picture))
    return sheet(
        cells, title=f"{text}: hottest patches occluded", columns=1 + _STEPS.count, cell_width=180, legend=False
    )
