"""People, dogs, trees and buildings. ``style`` holds numbers in [0, 1) that vary the drawing."""

from __future__ import annotations

from eyeshine.roads.draw import Pen, shade
from eyeshine.roads.vehicles import SKIN, Style
from eyeshine.roads.vocabulary import RGB

HAIR: tuple[RGB, ...] = ((40, 30, 24), (110, 72, 36), (200, 160, 80), (90, 90, 92))
TROUSERS: tuple[RGB, ...] = ((44, 52, 82), (70, 62, 54), (36, 36, 40))
TRUNK: RGB = (92, 64, 42)
LIT: RGB = (255, 216, 130)


def pedestrian(pen: Pen, paint: RGB, style: Style) -> None:
    """Somebody walking, in a coat of the given colour."""
    skin, hair = SKIN[int(style[0] * 3)], HAIR[int(style[1] * 4)]
    trousers = TROUSERS[int(style[2] * 3)]
    stride = 0.12 + 0.2 * style[3]
    pen.shadow(0.05, 0.95, 0.025)
    for side in (-1, 1):
        foot = 0.5 + side * stride
        pen.line([(0.5 + side * 0.1, 0.48), (foot, 0.03)], 0.085, trousers)
        pen.polygon([(foot - 0.12, 0.0), (foot - 0.12, 0.05), (foot + 0.1, 0.05), (foot + 0.22, 0.0)], (30, 26, 24))
    pen.line([(0.26, 0.76), (0.1, 0.6), (0.12, 0.46)], 0.07, shade(paint, 0.8))
    pen.line([(0.74, 0.76), (0.9, 0.6), (0.92, 0.48)], 0.07, shade(paint, 0.8))
    pen.polygon([(0.24, 0.42), (0.2, 0.76), (0.32, 0.82), (0.68, 0.82), (0.8, 0.76), (0.76, 0.42)], paint)
    pen.line([(0.5, 0.44), (0.5, 0.8)], 0.012, shade(paint, 0.7))
    pen.disc(0.5, 0.91, 0.085, hair)
    pen.disc(0.54, 0.895, 0.065, skin)


def dog(pen: Pen, paint: RGB, style: Style) -> None:
    """A standing dog, its tail up."""
    dark = shade(paint, 0.72)
    pen.shadow(0.08, 0.9, 0.05)
    for u, tone in ((0.2, dark), (0.32, paint), (0.62, dark), (0.73, paint)):
        pen.polygon([(u - 0.05, 0.45), (u - 0.04, 0.0), (u + 0.05, 0.0), (u + 0.07, 0.45)], tone)
    pen.line([(0.15, 0.6), (0.04, 0.74), (0.02, 0.92 - 0.1 * style[0])], 0.09, paint)
    pen.polygon([(0.12, 0.66), (0.14, 0.4), (0.76, 0.36), (0.8, 0.68)], paint)
    pen.disc(0.17, 0.54, 0.13, paint)
    pen.polygon([(0.64, 0.5), (0.7, 0.84), (0.84, 0.92), (0.86, 0.6)], paint)
    pen.disc(0.79, 0.82, 0.17, paint)
    pen.polygon([(0.8, 0.86), (1.0, 0.8), (1.0, 0.7), (0.8, 0.68)], paint)
    pen.disc(0.985, 0.78, 0.045, (16, 14, 14))
    pen.polygon([(0.66, 0.96), (0.78, 0.94), (0.72, 0.66)], dark)
    pen.disc(0.84, 0.86, 0.028, (16, 14, 14) if sum(paint) > 200 else (220, 220, 220))


def tree(pen: Pen, paint: RGB, style: Style) -> None:
    """A broad-leaved tree, or (green ones, at times) a fir."""
    pen.shadow(0.15, 0.85, 0.02)
    pen.polygon([(0.42, 0.0), (0.45, 0.45), (0.55, 0.45), (0.58, 0.0)], TRUNK)
    if paint[1] > paint[0] and style[0] < 0.35:
        for k in range(4):
            low, half = 0.18 + 0.19 * k, 0.5 - 0.1 * k
            tone = shade(paint, 0.62 + 0.08 * k)
            pen.polygon([(0.5 - half, low), (0.5, min(1.0, low + 0.34)), (0.5 + half, low)], tone)
        return
    blobs = ((0.25, 0.5, 0.17), (0.75, 0.52, 0.17), (0.5, 0.52, 0.2), (0.34, 0.74, 0.19), (0.66, 0.75, 0.18))
    for k, (u, v, r) in enumerate(blobs):
        pen.disc(u + 0.06 * (style[k % 5] - 0.5), v, r, shade(paint, 0.72 + 0.06 * k))
    pen.disc(0.5, 0.84, 0.16, paint)
    for u, v in ((0.4, 0.88), (0.62, 0.72), (0.28, 0.62)):
        pen.disc(u, v, 0.06, shade(paint, 1.18))


def building(pen: Pen, paint: RGB, style: Style) -> None:
    """A house with a gabled roof, or a block with a flat one; some of its windows are lit."""
    gabled = style[0] < 0.4
    top = 0.76 if gabled else 0.97
    pen.box(0.0, 0.0, 1.0, top, paint)
    pen.box(0.9, 0.0, 1.0, top, shade(paint, 0.78))
    if gabled:
        roof: RGB = (112, 54, 42) if style[1] < 0.5 else (70, 70, 78)
        pen.polygon([(-0.05, top), (0.22, 1.0), (0.78, 1.0), (1.05, top)], roof)
    else:
        pen.box(-0.02, top - 0.03, 1.02, 1.0, shade(paint, 0.66))
    rows = 2 if gabled else 3 + int(style[1] * 2)
    columns = 3 + int(style[2] * 2)
    for row in range(rows):
        low = 0.3 + row * (top - 0.36) / rows
        for column in range(columns):
            left = 0.08 + column * 0.82 / columns
            lit = (style[3] * 97 + row * 5.3 + column * 3.7) % 3 < 1
            pane: RGB = LIT if lit else (74, 96, 118)
            pen.box(left, low, left + 0.5 / columns, low + 0.55 * (top - 0.36) / rows, pane, lamp=lit)
    pen.box(0.4, 0.0, 0.56, 0.2, shade((110, 70, 44), 0.7 + 0.5 * style[4]))
    pen.box(0.08, 0.06, 0.32, 0.2, (74, 96, 118))
    pen.box(0.64, 0.06, 0.86, 0.2, (74, 96, 118))
