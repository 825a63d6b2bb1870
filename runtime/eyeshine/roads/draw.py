"""A canvas that draws colours and object numbers side by side, and a pen that draws in an object's own box.

Lengths are fractions of the picture's side, so a scene is the same scene at every size. The number map says, for
every pixel, which object was drawn there last: it is what makes visible masks exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from eyeshine.roads.vocabulary import RGB

SUPERSAMPLE = 2
LAMP = 128  # added to a pixel's object number where it shines by itself and so is not dimmed at night
Point = tuple[float, float]


def shade(colour: RGB, factor: float) -> RGB:
    """``colour`` (0 to 255 each) darkened (``factor`` < 1) or lightened (> 1, towards white at 2)."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    f = factor - 1
    return (
        int(colour[0] + (255 - colour[0]) * f),
        int(colour[1] + (255 - colour[1]) * f),
        int(colour[2] + (255 - colour[2]) * f),
    )


class Canvas:
    """A square picture to draw on, ``SUPERSAMPLE`` times as large as it will be once reduced."""

    def __init__(self, background: Image.Image) -> None:
        self.side = background.width
        self.image = background
        self.numbers = Image.new("L", (self.side, self.side), 0)
        self.colour_draw = ImageDraw.Draw(self.image)
        self.number_draw = ImageDraw.Draw(self.numbers)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture, uint8 [H, W, 3], reduced to the asked size."""
        return np.asarray(self.image.reduce(SUPERSAMPLE))

    def number_map(self) -> npt.NDArray[np.uint8]:
        """The object number of each pixel (0: scenery), uint8 [H, W], lamps still flagged with ``LAMP``."""
        return np.asarray(self.numbers)[::SUPERSAMPLE, ::SUPERSAMPLE]


class Pen:
    """Draws in a box that stands on the ground: ``u`` runs 0 to 1 from left to right, ``v`` 0 to 1 upwards.

    Args:
        canvas: what to draw on.
        box: centre x, ground y, width and height, as fractions of the picture's side (y downwards).
        number: the object's number in the map, 1 to 127, or 0 for scenery.
        flip: whether to draw mirrored.
    """

    def __init__(
        self, canvas: Canvas, box: tuple[float, float, float, float], number: int = 0, *, flip: bool = False
    ) -> None:
        x, ground, width, height = box
        self.canvas, self.number = canvas, number
        self.step = width * canvas.side * (-1 if flip else 1)
        self.left = x * canvas.side - self.step / 2
        self.ground = ground * canvas.side
        self.height = height * canvas.side

    def at(self, u: float, v: float) -> Point:
        """Canvas coordinates of the box point (u, v)."""
        return (self.left + u * self.step, self.ground - v * self.height)

    def polygon(self, points: Sequence[Point], colour: RGB, *, lamp: bool = False) -> None:
        """Fill the polygon through the box points given."""
        where = [self.at(u, v) for u, v in points]
        self.canvas.colour_draw.polygon(where, fill=colour)
        self.canvas.number_draw.polygon(where, fill=self.number + LAMP * lamp)

    def box(self, u0: float, v0: float, u1: float, v1: float, colour: RGB, *, lamp: bool = False) -> None:
        """Fill the rectangle between two box points."""
        (xa, ya), (xb, yb) = self.at(u0, v0), self.at(u1, v1)
        where = (min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))
        self.canvas.colour_draw.rectangle(where, fill=colour)
        self.canvas.number_draw.rectangle(where, fill=self.number + LAMP * lamp)

    def disc(self, u: float, v: float, radius: float, colour: RGB, *, stretch: float = 1.0, lamp: bool = False) -> None:
        """Fill a circle of ``radius`` box heights, or an ellipse ``stretch`` times as wide."""
        x, y = self.at(u, v)
        b = radius * self.height
        a = b * stretch
        where = (x - a, y - b, x + a, y + b)
        self.canvas.colour_draw.ellipse(where, fill=colour)
        self.canvas.number_draw.ellipse(where, fill=self.number + LAMP * lamp)

    def line(self, points: Sequence[Point], width: float, colour: RGB) -> None:
        """Draw a line ``width`` box heights thick through the box points given."""
        where = [self.at(u, v) for u, v in points]
        thick = max(1, round(width * self.height))
        self.canvas.colour_draw.line(where, fill=colour, width=thick, joint="curve")
        self.canvas.number_draw.line(where, fill=self.number, width=thick, joint="curve")

    def shadow(self, u0: float, u1: float, depth: float) -> None:
        """Darken a flat ellipse on the ground from ``u0`` to ``u1``; it belongs to the scenery."""
        (xa, y), (xb, _) = self.at(u0, 0.0), self.at(u1, 0.0)
        b = depth * self.height
        where = (min(xa, xb), y - b, max(xa, xb), y + b)
        self.canvas.colour_draw.ellipse(where, fill=(44, 45, 48))
        self.canvas.number_draw.ellipse(where, fill=0)
