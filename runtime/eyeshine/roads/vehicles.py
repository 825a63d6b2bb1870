"""Cars, trucks, buses and cyclists. ``style`` holds numbers in [0, 1) that vary the drawing."""

from __future__ import annotations

from eyeshine.roads.draw import Pen, shade
from eyeshine.roads.vocabulary import PAINT, RGB

TYRE: RGB = (22, 22, 24)
HUB: RGB = (168, 170, 174)
GLASS: RGB = (112, 150, 176)
HEAD: RGB = (255, 246, 200)
TAIL: RGB = (232, 40, 30)
CHASSIS: RGB = (48, 48, 52)
SKIN: tuple[RGB, ...] = ((238, 196, 160), (198, 142, 100), (120, 80, 54))

Style = tuple[float, ...]


def _wheel(pen: Pen, u: float, radius: float) -> None:
    pen.disc(u, radius, radius, TYRE)
    pen.disc(u, radius, radius * 0.5, HUB)


def car_side(pen: Pen, paint: RGB, style: Style) -> None:
    """A saloon or hatchback from the side."""
    boot = 0.90 if style[0] < 0.5 else 0.98
    pen.shadow(-0.02, 1.02, 0.08)
    pen.polygon([(0.02, 0.16), (0.0, 0.5), (0.22, 0.6), (boot, 0.62), (1.0, 0.5), (0.99, 0.16)], paint)
    pen.polygon([(0.2, 0.57), (0.36, 0.98), (0.72, 1.0), (boot - 0.02, 0.6)], shade(paint, 0.88))
    pen.polygon([(0.27, 0.6), (0.38, 0.91), (0.53, 0.92), (0.53, 0.6)], GLASS)
    pen.polygon([(0.57, 0.6), (0.57, 0.92), (0.7, 0.92), (boot - 0.1, 0.6)], GLASS)
    pen.box(0.02, 0.16, 0.98, 0.24, shade(paint, 0.6))
    pen.line([(0.55, 0.24), (0.55, 0.58)], 0.025, shade(paint, 0.6))
    pen.box(0.0, 0.4, 0.05, 0.5, HEAD, lamp=True)
    pen.box(0.95, 0.4, 1.0, 0.5, TAIL, lamp=True)
    for u in (0.2, 0.79):
        _wheel(pen, u, 0.2)


def car_end(pen: Pen, paint: RGB, style: Style) -> None:
    """A car from in front (``style[0]`` < 0.5) or from behind."""
    front = style[0] < 0.5
    pen.shadow(-0.02, 1.02, 0.06)
    for u in (0.04, 0.76):
        pen.box(u, 0.0, u + 0.2, 0.3, TYRE)
    pen.polygon([(0.0, 0.14), (0.0, 0.5), (0.08, 0.58), (0.92, 0.58), (1.0, 0.5), (1.0, 0.14)], paint)
    pen.polygon([(0.08, 0.56), (0.2, 0.95), (0.3, 1.0), (0.7, 1.0), (0.8, 0.95), (0.92, 0.56)], shade(paint, 0.86))
    pen.polygon([(0.16, 0.59), (0.26, 0.91), (0.74, 0.91), (0.84, 0.59)], GLASS)
    pen.box(0.0, 0.12, 1.0, 0.22, shade(paint, 0.6))
    pen.box(0.36, 0.26, 0.64, 0.36, (230, 230, 214) if not front else (60, 60, 64))
    for u in (0.04, 0.78):
        pen.box(u, 0.36, u + 0.18, 0.48, HEAD if front else TAIL, lamp=True)


def truck_side(pen: Pen, paint: RGB, style: Style) -> None:
    """A lorry: a cab in the truck's colour and a box or tipper body behind it."""
    pen.shadow(-0.01, 1.01, 0.05)
    pen.box(0.03, 0.13, 0.98, 0.21, CHASSIS)
    body = shade(paint, 1.0 if style[0] < 0.6 else 1.25)
    pen.box(0.3, 0.2, 1.0, 1.0, body)
    for k in range(1, 6):
        pen.line([(0.3 + k * 0.117, 0.24), (0.3 + k * 0.117, 0.96)], 0.014, shade(body, 0.8))
    pen.box(0.3, 0.94, 1.0, 1.0, shade(body, 0.75))
    pen.polygon([(0.0, 0.16), (0.0, 0.46), (0.05, 0.76), (0.27, 0.78), (0.27, 0.16)], shade(paint, 0.92))
    pen.polygon([(0.03, 0.48), (0.07, 0.71), (0.21, 0.71), (0.21, 0.48)], GLASS)
    pen.box(0.0, 0.22, 0.04, 0.3, HEAD, lamp=True)
    for u in (0.14, 0.72, 0.88):
        _wheel(pen, u, 0.115)


def truck_end(pen: Pen, paint: RGB, style: Style) -> None:
    """A lorry from behind: two tall doors above the chassis."""
    pen.shadow(-0.02, 1.02, 0.04)
    for u in (0.04, 0.74):
        pen.box(u, 0.0, u + 0.22, 0.2, TYRE)
    pen.box(0.02, 0.12, 0.98, 0.2, CHASSIS)
    pen.box(0.0, 0.19, 1.0, 1.0, paint)
    pen.box(0.0, 0.94, 1.0, 1.0, shade(paint, 0.75))
    pen.line([(0.5, 0.2), (0.5, 0.94)], 0.016, shade(paint, 0.55))
    for u in (0.24, 0.4, 0.6, 0.76):
        pen.line([(u, 0.22), (u, 0.92)], 0.012, shade(paint, 0.7))
    for u in (0.06, 0.78):
        pen.box(u, 0.13, u + 0.16, 0.19, TAIL, lamp=True)


def bus_side(pen: Pen, paint: RGB, style: Style) -> None:
    """A bus from the side, with a row of windows and two doors."""
    pen.shadow(-0.01, 1.01, 0.05)
    pen.polygon([(0.0, 0.1), (0.0, 0.9), (0.03, 1.0), (0.98, 1.0), (1.0, 0.94), (1.0, 0.1)], paint)
    pen.box(0.0, 0.1, 1.0, 0.18, shade(paint, 0.6))
    pen.box(0.0, 0.36, 1.0, 0.41, shade(paint, 1.6))
    for k in range(6):
        pen.box(0.17 + k * 0.135, 0.5, 0.285 + k * 0.135, 0.84, GLASS)
    pen.box(0.06, 0.14, 0.135, 0.84, shade(GLASS, 0.8))
    pen.polygon([(0.0, 0.48), (0.0, 0.86), (0.035, 0.86), (0.035, 0.48)], GLASS)
    pen.box(0.0, 0.2, 0.03, 0.28, HEAD, lamp=True)
    for u in (0.22, 0.8):
        _wheel(pen, u, 0.13)


def bus_end(pen: Pen, paint: RGB, style: Style) -> None:
    """A bus from in front: one wide windscreen under a lit destination board."""
    pen.shadow(-0.02, 1.02, 0.04)
    for u in (0.06, 0.76):
        pen.box(u, 0.0, u + 0.18, 0.15, TYRE)
    pen.polygon([(0.0, 0.08), (0.0, 0.95), (0.06, 1.0), (0.94, 1.0), (1.0, 0.95), (1.0, 0.08)], paint)
    pen.box(0.06, 0.42, 0.94, 0.82, GLASS)
    pen.line([(0.5, 0.42), (0.5, 0.82)], 0.014, shade(paint, 0.6))
    pen.box(0.18, 0.86, 0.82, 0.95, (30, 30, 30))
    pen.box(0.28, 0.885, 0.72, 0.925, (255, 190, 70), lamp=True)
    pen.box(0.0, 0.08, 1.0, 0.15, shade(paint, 0.55))
    for u in (0.07, 0.73):
        pen.box(u, 0.2, u + 0.2, 0.28, HEAD, lamp=True)


def cyclist(pen: Pen, paint: RGB, style: Style) -> None:
    """Somebody riding a bicycle, in clothes of the given colour."""
    frame = PAINT[("red", "blue", "grey", "yellow")[int(style[0] * 4)]]
    skin = SKIN[int(style[1] * 3)]
    pen.shadow(0.02, 0.98, 0.03)
    for u in (0.2, 0.8):
        pen.disc(u, 0.21, 0.21, TYRE)
        pen.disc(u, 0.21, 0.155, (150, 152, 154))
        pen.disc(u, 0.21, 0.03, TYRE)
    pen.line([(0.2, 0.21), (0.32, 0.46), (0.62, 0.46), (0.48, 0.2), (0.32, 0.46)], 0.035, frame)
    pen.line([(0.8, 0.21), (0.62, 0.46), (0.64, 0.54)], 0.035, frame)
    pen.line([(0.26, 0.56), (0.32, 0.46), (0.24, 0.5)], 0.035, TYRE)
    pen.line([(0.6, 0.52), (0.5, 0.38), (0.54, 0.14)], 0.07, (50, 54, 74))
    pen.polygon([(0.5, 0.48), (0.66, 0.54), (0.54, 0.82), (0.38, 0.8)], paint)
    pen.line([(0.45, 0.74), (0.3, 0.62), (0.24, 0.56)], 0.07, shade(paint, 0.85))
    pen.disc(0.42, 0.89, 0.085, skin)
    pen.polygon([(0.3, 0.92), (0.36, 1.0), (0.48, 1.0), (0.54, 0.91)], shade(frame, 0.8))
