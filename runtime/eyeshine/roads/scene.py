"""Draw a scene from its seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eyeshine.errors import OptionError
from eyeshine.roads import figures, furniture, vehicles
from eyeshine.roads.backdrop import crosswalk, paint_backdrop
from eyeshine.roads.captions import captions, facts_of
from eyeshine.roads.draw import LAMP, SUPERSAMPLE, Canvas, Pen
from eyeshine.roads.layout import DENSITIES, Item, Plan, Variant, plan
from eyeshine.roads.vocabulary import PAINT, RGB, phrase
from eyeshine.roads.weather import expose

HELD_OUT_FROM = 1_000_000_000
REFERENCE_SIZE = 224  # at which it is decided what is visible enough to count, whatever size is drawn
LEAST_VISIBLE = 0.006  # of the picture's area
_ALLOWED_SIZES = (32, 2048)

_DRAW: dict[tuple[str, str], Callable[[Pen, RGB, tuple[float, ...]], None]] = {
    ("car", "side"): vehicles.car_side,
    ("car", "end"): vehicles.car_end,
    ("truck", "side"): vehicles.truck_side,
    ("truck", "end"): vehicles.truck_end,
    ("bus", "side"): vehicles.bus_side,
    ("bus", "end"): vehicles.bus_end,
    ("cyclist", "any"): vehicles.cyclist,
    ("pedestrian", "any"): figures.pedestrian,
    ("dog", "any"): figures.dog,
    ("tree", "any"): figures.tree,
    ("building", "any"): figures.building,
    ("traffic light", "any"): furniture.traffic_light,
    ("stop sign", "any"): furniture.stop_sign,
    ("cone", "any"): furniture.cone,
    ("hydrant", "any"): furniture.hydrant,
    ("bench", "any"): furniture.bench,
}


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Args:
        label: one of ``LABELS``.
        phrase: the label with its article and colour, ``"a red car"``.
        mask: bool [H, W], the object's visible pixels.
    """

    label: str
    phrase: str
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture of a road and what is known about it.

    Args:
        image: uint8 [H, W, 3].
        caption: one true sentence about it.
        objects: 2 to 10 objects (11 to 18 where cluttered), far to near; their masks are disjoint.
        weather, light: words from ``WEATHERS`` and ``LIGHTS``.
        seed: the seed it was drawn from.
    """

    image: npt.NDArray[np.uint8]
    caption: str
    objects: tuple[SceneObject, ...]
    weather: str
    light: str
    seed: int

    @property
    def facts(self) -> Counter[str]:
        """How often each label, phrase, weather and light occurs: what captions are made from and checked against."""
        return facts_of([thing.phrase for thing in self.objects], self.weather, self.light)


def _colour(item: Item) -> RGB:
    paint = PAINT.get(item.colour, (0, 0, 0))
    if item.label == "tree" and item.colour == "green":
        return (40, 116, 48)
    if item.label == "building":
        return {"red": (170, 84, 64), "grey": (142, 144, 150), "white": (222, 218, 208), "brown": (136, 100, 70)}[
            item.colour
        ]
    return paint


def _paint(what: Plan, size: int) -> Canvas:
    canvas = paint_backdrop(size * SUPERSAMPLE, what.road, what.weather)
    for number, item in enumerate(what.items, start=1):
        if item.view == "flat":
            crosswalk(canvas, what.road, number, item.t, (item.box[1] - what.road.horizon) / (1 - what.road.horizon))
        else:
            pen = Pen(canvas, item.box, number, flip=item.flip)
            _DRAW[item.label, item.view](pen, _colour(item), item.style)
    return canvas


def _settle(seed: int, variant: Variant) -> tuple[Plan, Canvas]:
    """A plan all of whose objects are visible enough, and its canvas at the reference size."""
    fewest = DENSITIES[variant].fewest
    for attempt in range(100):
        what = plan(seed, attempt, variant)
        while len(what.items) >= fewest:
            canvas = _paint(what, REFERENCE_SIZE)
            counts = np.bincount((canvas.number_map() % LAMP).ravel(), minlength=len(what.items) + 1)[1:]
            seen = tuple(
                item
                for item, count in zip(what.items, counts, strict=True)
                if count >= LEAST_VISIBLE * REFERENCE_SIZE**2
            )
            if len(seen) == len(what.items):
                return what, canvas
            what = replace(what, items=seen)
    # One plan in a few hundred fails.
    raise AssertionError(f"no plan of seed {seed} shows {fewest} objects")


def render(*, seed: int, size: int = REFERENCE_SIZE, variant: Variant = "plain") -> Scene:
    """Draw the scene of a seed.

    The same seed, size and variant give the same bytes; another size gives the same scene, larger or smaller.

    Args:
        seed: at least 0; seeds from ``HELD_OUT_FROM`` are kept for evaluation and must not be trained on.
        size: side of the square picture in pixels, 32 to 2048.
        variant: "plain", or "cluttered": more than ten objects, and smaller ones.

    Raises:
        OptionError: a negative seed, a size outside its range, or an unknown variant.
    """
    if seed < 0:
        raise OptionError("a scene's seed is negative", got=seed, allowed="0 and above")
    if not _ALLOWED_SIZES[0] <= size <= _ALLOWED_SIZES[1]:
        raise OptionError("a scene's size is out of range", got=size, allowed="32 to 2048 pixels")
    if variant not in DENSITIES:
        raise OptionError("unknown variant of the scenes", got=repr(variant), allowed=", ".join(DENSITIES))
    what, canvas = _settle(seed, variant)
    if size != REFERENCE_SIZE:
        canvas = _paint(what, size)
    numbers = canvas.number_map()
    rng = np.random.default_rng((seed, 1_000))
    image = expose(canvas.pixels(), numbers, what.road.horizon, what.weather, what.light, rng)
    plain = numbers % LAMP
    objects = tuple(
        SceneObject(item.label, phrase(item.label, item.colour), plain == number)
        for number, item in enumerate(what.items, start=1)
    )
    facts = facts_of([thing.phrase for thing in objects], what.weather, what.light)
    (caption,) = captions(facts, np.random.default_rng((seed, 1_001)), 1)
    return Scene(image, caption.text, objects, what.weather, what.light, seed)
