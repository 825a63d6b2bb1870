"""Decide what stands where: the plan of a scene, drawn from a seed before any pixel is painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from eyeshine.roads.backdrop import Road
from eyeshine.roads.vocabulary import COLOURS, LABELS, LIGHTS, WEATHERS

Variant = Literal["plain", "cluttered"]
_REPEATED = ("car", "pedestrian", "tree", "building", "cone")
_RATE = {"building": 1.3, "tree": 1.2, "car": 1.3, "pedestrian": 1.2}


@dataclass(frozen=True)
class Density:
    """How full a scene is.

    Attributes:
        labels: how many labels are drawn, least and most.
        repeated: probability of a second object, of labels that may have one.
        fewest, most: objects of a scene.
        tries: places that are tried for an object before it is left out.
        cover: share of its box that an object may lose to nearer ones.
    """

    labels: tuple[int, int]
    repeated: float
    fewest: int
    most: int
    tries: int
    cover: float


DENSITIES: Final[dict[Variant, Density]] = {
    "plain": Density((3, 8), repeated=0.35, fewest=2, most=10, tries=6, cover=0.4),
    # As large as in plain scenes, so that nothing but the number differs; 95 plans of 100 hold eleven, none above 16.
    "cluttered": Density((11, 14), repeated=0.9, fewest=11, most=18, tries=40, cover=0.4),
}
"""What the model was trained on, and scenes of more than ten objects, where MMEL expects its maps to lose focus."""


@dataclass(frozen=True)
class Kind:
    """How one view of a label is placed: height and width at nearness 1, nearest and farthest ``t``, and zone."""

    view: str
    height: float
    width: float
    far: float
    near: float
    zone: str


KINDS: dict[str, tuple[Kind, ...]] = {
    "car": (Kind("side", 0.25, 0.50, 0.14, 0.85, "road"), Kind("end", 0.29, 0.34, 0.18, 0.85, "road")),
    "truck": (Kind("side", 0.38, 0.62, 0.14, 0.7, "road"), Kind("end", 0.46, 0.38, 0.16, 0.7, "road")),
    "bus": (Kind("side", 0.36, 0.74, 0.12, 0.65, "road"), Kind("end", 0.48, 0.38, 0.14, 0.7, "road")),
    "pedestrian": (Kind("any", 0.54, 0.21, 0.2, 0.95, "any"),),
    "cyclist": (Kind("any", 0.46, 0.44, 0.22, 0.92, "road"),),
    "dog": (Kind("any", 0.27, 0.36, 0.35, 0.95, "any"),),
    "traffic light": (Kind("any", 0.72, 0.19, 0.15, 0.6, "kerb"),),
    "stop sign": (Kind("any", 0.62, 0.29, 0.15, 0.7, "kerb"),),
    "cone": (Kind("any", 0.30, 0.23, 0.3, 0.95, "any"),),
    "hydrant": (Kind("any", 0.31, 0.20, 0.3, 0.9, "kerb"),),
    "bench": (Kind("any", 0.25, 0.42, 0.25, 0.8, "kerb"),),
    "tree": (Kind("any", 0.74, 0.5, 0.08, 0.45, "verge"),),
    "building": (Kind("any", 0.78, 0.62, 0.03, 0.14, "verge"),),
    "crosswalk": (Kind("flat", 0.0, 0.0, 0.3, 0.68, "flat"),),
}


@dataclass(frozen=True)
class Item:
    """One planned object: what it is, where it stands (centre x and ground y) and how it is drawn."""

    label: str
    colour: str
    view: str
    t: float
    box: tuple[float, float, float, float]
    flip: bool
    style: tuple[float, ...]

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, clipped to the picture."""
        x, ground, width, height = self.box
        left, right = max(0.0, x - width / 2), min(1.0, x + width / 2)
        return left, max(0.0, ground - height), right, min(1.0, ground)


@dataclass(frozen=True)
class Plan:
    """Everything a scene is, before it is drawn at some size; ``items`` run from far to near."""

    road: Road
    weather: str
    light: str
    items: tuple[Item, ...]


def _road(rng: np.random.Generator) -> Road:
    u = rng.random(18)
    return Road(
        horizon=0.34 + 0.14 * u[0],
        vanish=0.36 + 0.28 * u[1],
        left=-0.14 + 0.34 * u[2],
        right=0.80 + 0.34 * u[3],
        pavement=0.16 + 0.16 * u[4],
        palette=tuple(float(x) for x in u[5:]),
    )


def _across(road: Road, zone: str, t: float, width: float, rng: np.random.Generator) -> float:
    """The centre x of something ``width`` wide that stands in ``zone`` at nearness ``t``."""
    left, right = road.x(road.left, t), road.x(road.right, t)
    if zone == "any":
        zone = "road" if rng.random() < 0.35 else "kerb"
    if zone == "road":
        inset = min(width * 0.3, (right - left) * 0.4)
        return float(rng.uniform(left + inset, right - inset))
    pavement = road.pavement * t
    on_left = bool(rng.random() < 0.5)
    if zone == "verge":
        reach = max(0.12, left - pavement) if on_left else max(0.12, 1 - right - pavement)
        offset = pavement + width * 0.45 + rng.random() * reach
    else:
        offset = 0.02 + (pavement + 0.06) * rng.random() + width * 0.25
    return left - offset if on_left else right + offset


def _place(label: str, colour: str, road: Road, rng: np.random.Generator) -> Item:
    kind = KINDS[label][int(rng.integers(len(KINDS[label])))]
    t = float(rng.uniform(kind.far, kind.near))
    style = tuple(float(x) for x in rng.random(6))
    flip = bool(rng.random() < 0.5) and label != "stop sign"  # its letters must not be mirrored
    if kind.zone == "flat":
        low = min(0.98, t + 0.16 + 0.12 * style[0])
        left, right = road.x(road.left, t), road.x(road.right, t)
        depth = road.y(low) - road.y(t)
        return Item(label, colour, kind.view, t, ((left + right) / 2, road.y(low), right - left, depth), flip, style)
    grow = road.scale(t) * (0.88 + 0.24 * style[5])
    width = kind.width * grow * (0.85 + 0.3 * style[4] if label == "building" else 1.0)
    height = kind.height * grow * (0.75 + 0.35 * style[3] if label in ("building", "tree") else 1.0)
    x = _across(road, kind.zone, t, width, rng)
    x = min(max(x, 0.3 * width), 1 - 0.3 * width)
    return Item(label, colour, kind.view, t, (x, road.y(t), width, height), flip, style)


def _covered(far: Item, near: Item) -> float:
    """The share of ``far``'s box that ``near``'s box hides."""
    a, b = far.bounds(), near.bounds()
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area = (a[2] - a[0]) * (a[3] - a[1])
    return max(0.0, wide) * max(0.0, high) / area if area > 0 else 1.0


def _fits(item: Item, others: list[Item], cover: float) -> bool:
    trial = [*others, item]
    for far in trial:
        hidden = sum(_covered(far, near) for near in trial if near is not far and _order(near) > _order(far))
        if hidden > cover:
            return False
    return True


def _order(item: Item) -> float:
    """Drawing order: what lies flat on the road first, then far to near."""
    return item.t - 10 if item.view == "flat" else item.t


def plan(seed: int, attempt: int, variant: Variant = "plain") -> Plan:
    """The plan of one scene; ``attempt`` counts up when a plan turns out to leave too little visible."""
    density, rng = DENSITIES[variant], np.random.default_rng((seed, attempt))
    road = _road(rng)
    weather = WEATHERS[int(rng.choice(4, p=(0.55, 0.17, 0.13, 0.15)))]
    light = LIGHTS[int(rng.choice(3, p=(0.66, 0.16, 0.18)))]
    rates = np.array([_RATE.get(label, 1.0) for label in LABELS])
    count = int(rng.integers(density.labels[0], density.labels[1] + 1))
    chosen = rng.choice(len(LABELS), size=count, replace=False, p=rates / rates.sum())
    wanted = [LABELS[k] for k in chosen]
    wanted += [label for label in wanted if label in _REPEATED and rng.random() < density.repeated]
    items: list[Item] = []
    for label in wanted:
        for _ in range(density.tries):
            colours = COLOURS[label]
            item = _place(label, colours[int(rng.integers(len(colours)))], road, rng)
            if len(items) < density.most and _fits(item, items, density.cover):
                items.append(item)
                break
    return Plan(road, weather, light, tuple(sorted(items, key=_order)))
