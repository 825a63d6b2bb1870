"""Sky, skyline, ground, pavements and the road itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from eyeshine.roads.draw import Canvas, Pen, shade
from eyeshine.roads.vocabulary import RGB

SKIES: dict[str, tuple[tuple[RGB, RGB], ...]] = {
    "clear": (((70, 136, 214), (188, 218, 238)), ((96, 160, 226), (222, 232, 232)), ((60, 116, 190), (170, 204, 230))),
    "rain": (((92, 100, 112), (150, 156, 162)), ((74, 84, 98), (136, 144, 150))),
    "fog": (((176, 180, 184), (200, 202, 204)),),
    "snow": (((160, 170, 184), (214, 218, 224)), ((140, 154, 172), (204, 210, 218))),
}
GROUNDS: tuple[RGB, ...] = ((98, 140, 66), (122, 146, 74), (168, 152, 112), (140, 134, 124), (84, 122, 62))
SNOWY: RGB = (226, 230, 236)


@dataclass(frozen=True)
class Road:
    """The road's shape, in fractions of the picture's side.

    Args:
        horizon: y of the horizon.
        vanish: x of the vanishing point.
        left, right: x of the road's edges at the bottom of the picture.
        pavement: width of each pavement at the bottom of the picture.
        palette: numbers in [0, 1) that choose colours and marks.
    """

    horizon: float
    vanish: float
    left: float
    right: float
    pavement: float
    palette: tuple[float, ...]

    def y(self, t: float) -> float:
        """The ground's y at nearness ``t``: 0 at the horizon, 1 at the bottom of the picture."""
        return self.horizon + (1 - self.horizon) * t

    def x(self, bottom: float, t: float) -> float:
        """Where the line from the vanishing point to (``bottom``, 1) is at nearness ``t``."""
        return self.vanish + (bottom - self.vanish) * t

    @staticmethod
    def scale(t: float) -> float:
        """How large things look at nearness ``t``; gentler than true perspective, so that far things stay visible."""
        return 0.36 + 0.64 * t


def _gradient(side: int, road: Road, weather: str) -> Image.Image:
    skies = SKIES[weather]
    top, low = skies[int(road.palette[0] * len(skies))]
    ground = SNOWY if weather == "snow" else GROUNDS[int(road.palette[1] * len(GROUNDS))]
    rows = (np.arange(side) + 0.5) / side
    stops = (0.0, road.horizon - 1e-6, road.horizon, 1.0)
    far, near = shade(ground, 0.86), ground
    columns = [np.interp(rows, stops, (top[c], low[c], far[c], near[c])) for c in range(3)]
    column = np.stack(columns, axis=1).astype(np.uint8)
    return Image.fromarray(column[:, None, :]).resize((side, side), Image.Resampling.NEAREST)


def _skyline(pen: Pen, road: Road, sky: RGB, sunny: bool) -> None:
    """Hills, or the far roofs of a town, on the horizon; clouds, or in clear weather perhaps a sun, above."""
    p = road.palette
    base = 1 - road.horizon
    if p[5] < 0.5 or not sunny:
        for k in range(3 if p[6] < 0.7 else 0):
            u, v = (p[6] + 0.37 * k) % 1.0, 0.78 + 0.16 * ((p[7] + 0.41 * k) % 1.0)
            for du, r in ((-0.07, 0.024), (0.0, 0.036), (0.07, 0.026)):
                pen.disc(u + du, v, r, shade(sky, 1.45), stretch=2.0)
    else:
        pen.disc(0.1 + 0.8 * p[6], 0.8 + 0.12 * p[7], 0.035, (255, 240, 180), lamp=True)
    if p[2] < 0.5:
        tone: RGB = (104, 126, 112) if p[3] < 0.5 else (116, 124, 146)
        points = [(k / 8, base + 0.02 + 0.07 * ((p[4] * 13 + k * k * 0.37 + k * p[3]) % 1.0)) for k in range(9)]
        pen.polygon([(0.0, base), *points, (1.0, base)], tone)
        return
    for k in range(14):
        height = 0.03 + 0.09 * ((p[4] * 7 + k * k * 0.29) % 1.0)
        pen.box(k / 14, base, (k + 1) / 14, base + height, shade((132, 136, 148), 0.9 + 0.2 * ((k * 0.37) % 1.0)))


def _strip(pen: Pen, road: Road, a: float, b: float, t0: float, t1: float, colour: RGB) -> None:
    """Fill the road surface between the bottom positions ``a`` and ``b`` from nearness ``t0`` to ``t1``."""
    corners = ((a, t0), (b, t0), (b, t1), (a, t1))
    pen.polygon([(road.x(x, t), 1 - road.y(t)) for x, t in corners], colour)


def crosswalk(canvas: Canvas, road: Road, number: int, t0: float, t1: float) -> None:
    """White bars across the whole road between nearness ``t0`` and ``t1``; the asphalt between them belongs to it."""
    pen = Pen(canvas, (0.5, 1.0, 1.0, 1.0), number)
    corners = ((road.left, t0), (road.right, t0), (road.right, t1), (road.left, t1))
    canvas.number_draw.polygon([pen.at(road.x(x, t), 1 - road.y(t)) for x, t in corners], fill=number)
    width = road.right - road.left
    bars = 7
    for k in range(bars):
        a = road.left + width * (k + 0.18) / bars
        _strip(pen, road, a, a + width * 0.64 / bars, t0, t1, (238, 238, 234))


def paint_backdrop(size: int, road: Road, weather: str) -> Canvas:
    """A canvas of ``size`` pixels (supersampled) with everything but the objects on it."""
    canvas = Canvas(_gradient(size, road, weather))
    pen = Pen(canvas, (0.5, 1.0, 1.0, 1.0))
    p = road.palette
    skies = SKIES[weather]
    _skyline(pen, road, skies[int(p[0] * len(skies))][1], weather == "clear")
    paving: RGB = (170, 166, 160) if p[8] < 0.6 else (150, 138, 128)
    paving = shade(SNOWY, 0.92) if weather == "snow" else paving
    asphalt = shade((92, 93, 97), 0.75 + 0.4 * p[9])
    kerb = shade(paving, 0.8)
    _strip(pen, road, road.left - road.pavement, road.right + road.pavement, 0, 1, paving)
    for k in range(7):
        t = 0.12 + 0.03 * k * k * 0.6 + 0.02 * k
        for a, b in ((road.left - road.pavement, road.left), (road.right, road.right + road.pavement)):
            _strip(pen, road, a, b, t, t * 1.02 + 0.003, kerb)
    _strip(pen, road, road.left - 0.025, road.right + 0.025, 0, 1, kerb)
    _strip(pen, road, road.left, road.right, 0, 1, asphalt)
    mark: RGB = (226, 226, 220) if p[10] < 0.7 else (226, 190, 70)
    middle, width = (road.left + road.right) / 2, road.right - road.left
    for x in (road.left + 0.035 * width, road.right - 0.035 * width):
        _strip(pen, road, x - 0.006, x + 0.006, 0, 1, (208, 208, 204))
    start = 0.02 + 0.03 * p[11]
    while start < 1:
        _strip(pen, road, middle - 0.012, middle + 0.012, start, min(1.0, start * 1.35), mark)
        start *= 1.8
    return canvas
