"""What a road scene can hold, and the words for it.

``COLOURS`` gives, for each label, the colours in which it is drawn (an empty name where the label has no colour
word of its own), and ``PHRASES`` every object phrase there is, so that a scene's contents fit a fixed row of counts.
"""

from __future__ import annotations

RGB = tuple[int, int, int]

PAINT: dict[str, RGB] = {
    "red": (200, 36, 34),
    "blue": (38, 84, 190),
    "white": (236, 236, 232),
    "black": (34, 34, 38),
    "yellow": (238, 196, 30),
    "green": (34, 134, 62),
    "grey": (134, 138, 144),
    "orange": (240, 112, 22),
    "brown": (124, 78, 44),
}

_VEHICLE = ("red", "blue", "white", "black", "yellow", "green")
_CLOTHES = ("red", "blue", "white", "black", "yellow", "green")

COLOURS: dict[str, tuple[str, ...]] = {
    "car": _VEHICLE,
    "truck": ("red", "blue", "white", "green", "yellow"),
    "bus": ("red", "blue", "white", "yellow", "green"),
    "pedestrian": _CLOTHES,
    "cyclist": _CLOTHES,
    "dog": ("brown", "black", "white"),
    "traffic light": ("red", "yellow", "green"),
    "stop sign": ("",),
    "cone": ("",),
    "hydrant": ("red", "yellow"),
    "bench": ("brown", "green"),
    "tree": ("green", "orange"),
    "building": ("red", "grey", "white", "brown"),
    "crosswalk": ("",),
}

LABELS: tuple[str, ...] = tuple(COLOURS)
WEATHERS: tuple[str, ...] = ("clear", "rain", "fog", "snow")
LIGHTS: tuple[str, ...] = ("day", "dusk", "night")

_IN_CLOTHES = ("pedestrian", "cyclist")  # "a red pedestrian" would be a strange thing to say
_PLURALS = {"bus": "buses", "bench": "benches"}


def article(words: str) -> str:
    """``words`` after the indefinite article they take: ``"orange tree"`` gives ``"an orange tree"``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(label: str, colour: str = "") -> str:
    """The phrase for one object: ``"a red car"``, ``"a pedestrian in red"``, or ``"a car"`` without a colour."""
    if not colour:
        return article(label)
    if label in _IN_CLOTHES:
        return f"{article(label)} in {colour}"
    return article(f"{colour} {label}")


def plural(label: str) -> str:
    """The plural of a label: ``"cars"``, ``"buses"``."""
    return _PLURALS.get(label, f"{label}s")


KINDS: tuple[tuple[str, str], ...] = tuple((label, colour) for label, colours in COLOURS.items() for colour in colours)
PHRASES: tuple[str, ...] = tuple(phrase(label, colour) for label, colour in KINDS)
LABEL_OF: dict[str, str] = {phrase(label, colour): label for label, colour in KINDS}
