"""Traffic lights, stop signs, cones, hydrants and benches. ``style`` holds numbers in [0, 1)."""

from __future__ import annotations

import math

from eyeshine.roads.draw import Pen, shade
from eyeshine.roads.vehicles import Style
from eyeshine.roads.vocabulary import PAINT, RGB

POST: RGB = (108, 112, 116)
_LIT: tuple[RGB, ...] = ((255, 48, 38), (255, 206, 40), (48, 240, 110))
_OFF: tuple[RGB, ...] = ((74, 26, 24), (76, 62, 22), (20, 62, 36))


def traffic_light(pen: Pen, paint: RGB, style: Style) -> None:
    """Three lamps in a dark case on a post; the one that shines is that of the colour given."""
    lit = next(k for k, name in enumerate(("red", "yellow", "green")) if PAINT[name] == paint)
    pen.box(0.42, 0.0, 0.58, 0.5, POST)
    pen.box(0.3, 0.0, 0.7, 0.03, shade(POST, 0.7))
    pen.polygon([(0.06, 0.45), (0.06, 0.97), (0.14, 1.0), (0.86, 1.0), (0.94, 0.97), (0.94, 0.45)], (34, 36, 38))
    for k in range(3):
        v = 0.91 - 0.175 * k
        pen.disc(0.5, v, 0.076, (20, 20, 20))
        pen.disc(0.5, v, 0.07, _LIT[k] if k == lit else _OFF[k], lamp=k == lit)
    u, v = 0.5, 0.91 - 0.175 * lit
    pen.disc(u - 0.06, v + 0.015, 0.024, shade(_LIT[lit], 1.6), lamp=True)


def stop_sign(pen: Pen, paint: RGB, style: Style) -> None:
    """A red octagon with a white rim and a white bar of letters, on a post."""
    pen.box(0.45, 0.0, 0.55, 0.6, POST)
    for radius, colour in ((0.235, (240, 240, 238)), (0.21, (196, 24, 30))):
        ring = [(math.pi / 8 + k * math.pi / 4) for k in range(8)]
        aspect = abs(pen.height / pen.step)
        pen.polygon([(0.5 + radius * aspect * math.cos(a), 0.76 + radius * math.sin(a)) for a in ring], colour)
    white: RGB = (244, 244, 242)
    for k in range(4):
        left = 0.2 + 0.155 * k
        if k == 0:
            pen.line([(left + 0.11, 0.81), (left, 0.81), (left, 0.765), (left + 0.11, 0.765)], 0.022, white)
            pen.line([(left + 0.11, 0.765), (left + 0.11, 0.715), (left, 0.715)], 0.022, white)
        elif k == 1:
            pen.line([(left, 0.81), (left + 0.12, 0.81)], 0.022, white)
            pen.line([(left + 0.06, 0.81), (left + 0.06, 0.71)], 0.022, white)
        else:
            low = 0.715 if k == 2 else 0.765
            pen.line([(left, low), (left + 0.1, low), (left + 0.1, 0.81), (left, 0.81), (left, 0.71)], 0.022, white)


def cone(pen: Pen, paint: RGB, style: Style) -> None:
    """An orange traffic cone with two white bands."""
    orange: RGB = (246, 106, 20)
    pen.shadow(-0.05, 1.05, 0.05)
    pen.box(0.0, 0.0, 1.0, 0.1, shade(orange, 0.8))
    pen.polygon([(0.14, 0.1), (0.43, 1.0), (0.57, 1.0), (0.86, 0.1)], orange)
    for low in (0.3, 0.6):
        a, b = 0.14 + (low - 0.1) * 0.322, 0.14 + (low + 0.05) * 0.322
        pen.polygon([(a, low), (b, low + 0.15), (1 - b, low + 0.15), (1 - a, low)], (244, 244, 240))


def hydrant(pen: Pen, paint: RGB, style: Style) -> None:
    """A fire hydrant: a barrel with a domed cap and two side nozzles."""
    pen.shadow(0.0, 1.0, 0.04)
    pen.box(0.12, 0.0, 0.88, 0.1, shade(paint, 0.7))
    pen.box(0.24, 0.1, 0.76, 0.72, paint)
    pen.box(0.64, 0.1, 0.76, 0.72, shade(paint, 0.75))
    pen.box(0.0, 0.42, 1.0, 0.6, shade(paint, 0.85))
    for u in (0.04, 0.96):
        pen.disc(u, 0.51, 0.1, (178, 180, 184), stretch=0.6)
    pen.disc(0.5, 0.5, 0.11, shade(paint, 0.65))
    pen.disc(0.5, 0.5, 0.06, (178, 180, 184))
    pen.disc(0.5, 0.76, 0.16, shade(paint, 0.92))
    pen.box(0.14, 0.7, 0.86, 0.77, shade(paint, 0.7))
    pen.box(0.43, 0.9, 0.57, 1.0, shade(paint, 0.7))


def bench(pen: Pen, paint: RGB, style: Style) -> None:
    """A park bench seen from in front: slats of a back and a seat on iron legs."""
    iron: RGB = (40, 42, 44)
    pen.shadow(0.0, 1.0, 0.06)
    for u in (0.06, 0.86):
        pen.box(u, 0.0, u + 0.08, 0.95, iron)
    for low in (0.56, 0.71, 0.86):
        pen.box(0.0, low, 1.0, low + 0.12, shade(paint, 0.9 + 0.1 * (low > 0.6)))
    pen.polygon([(0.03, 0.5), (-0.04, 0.34), (1.04, 0.34), (0.97, 0.5)], shade(paint, 1.15))
    pen.box(-0.04, 0.28, 1.04, 0.35, shade(paint, 0.7))
    for u in (-0.02, 0.94):
        pen.box(u, 0.0, u + 0.08, 0.3, iron)
