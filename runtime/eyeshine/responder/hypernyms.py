"""Concepts and their kinds from a table: works without any model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from eyeshine.errors import OptionError
from eyeshine.responder.concepts import noun, with_article
from eyeshine.texts import check_texts

__all__ = ["HYPERNYMS", "HypernymTable"]

_COCO: Final = {
    "person": "pedestrian, cyclist, man, woman, child",
    "vehicle": "car, bus, truck, motorcycle, bicycle, train, boat, airplane",
    "outdoor object": "traffic light, fire hydrant, stop sign, parking meter, bench",
    "animal": "dog, cat, horse, bird, cow, sheep, elephant, bear, zebra, giraffe",
    "accessory": "backpack, umbrella, handbag, tie, suitcase",
    "sports equipment": "frisbee, pair of skis, snowboard, ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket",
    "kitchenware": "bottle, wine glass, cup, fork, knife, spoon, bowl",
    "food": "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake",
    "furniture": "chair, couch, potted plant, bed, dining table, toilet",
    "electronic device": "tv, laptop, computer mouse, remote control, keyboard, cell phone",
    "appliance": "microwave, oven, toaster, sink, refrigerator",
    "indoor object": "book, clock, vase, pair of scissors, teddy bear, hair drier, toothbrush",
}
"""The twelve supercategories of COCO (Lin et al., Microsoft COCO, ECCV 2014) with their classes; "person", which has
none but itself, with the kinds that street scenes tell apart."""
_STREET: Final = {
    "road user": "car, bus, truck, motorcycle, bicycle, pedestrian, cyclist",
    "vulnerable road user": "pedestrian, cyclist, child, motorcyclist",
    "two-wheeler": "bicycle, motorcycle, scooter",
    "emergency vehicle": "ambulance, fire truck, police car",
    "sign": "stop sign, traffic sign, street sign, speed limit sign",
    "signal": "traffic light, stop sign",
    "street furniture": "bench, hydrant, traffic light, stop sign, street lamp, bollard, trash can",
    "traffic control": "traffic light, stop sign, cone, crosswalk",
    "obstacle": "cone, hydrant, bench, tree, dog",
    "road marking": "crosswalk, lane line, stop line",
    "structure": "building, house, bridge, wall",
    "plant": "tree, bush, flower, grass",
    "pet": "dog, cat",
    "weather": "rain, fog, snow",
}
"""What stands above the words of the roads model's scenes, and near them in other street scenes."""
_OTHER_NAMES: Final = {
    "people": "person",
    "human": "person",
    "road sign": "sign",
    "vegetation": "plant",
    "electronics": "electronic device",
}


def _built_in() -> Mapping[str, tuple[str, ...]]:
    table = {concept: tuple(kinds.split(", ")) for concept, kinds in {**_COCO, **_STREET}.items()}
    return MappingProxyType({**table, **{other: table[name] for other, name in _OTHER_NAMES.items()}})


HYPERNYMS: Final[Mapping[str, tuple[str, ...]]] = _built_in()
"""The built-in table: concept to kinds, lower case, without articles."""


@dataclass(frozen=True)
class HypernymTable:
    """An expander that looks concepts up.

    Attributes:
        kinds: of each concept, by its name in lower case without an article; by default the built-in table.

    Raises:
        OptionError: an empty table or entry, a name that is not lower case without an article, a kind that is not a
            text, twice the same, or the concept itself.
    """

    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: HYPERNYMS, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, Mapping) or not self.kinds:
            raise OptionError("a table needs entries", got=repr(self.kinds), allowed="{'vehicle': ['car', 'bus']}")
        checked = {concept: _checked(concept, kinds) for concept, kinds in self.kinds.items()}
        object.__setattr__(self, "kinds", MappingProxyType(checked))

    @classmethod
    def from_file(cls, path: str | Path) -> HypernymTable:
        """Read a JSON object of lists: ``{"vehicle": ["car", "bus"]}``.

        Raises:
            OptionError: no such file, not JSON, or as the class.
        """
        try:
            table = json.loads(Path(path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            what = f"the table cannot be read ({error})"
            raise OptionError(what, got=str(path), allowed='JSON: {"vehicle": ["car", "bus"]}') from error
        return cls(table)

    def expand(self, concept: str) -> list[str]:
        """Kinds of a concept, in the table's order; none where the table does not have it.

        Case and article do not matter, and the kinds take the concept's article ("a vehicle": "a car"); a plural is
        looked up without its s.

        Raises:
            TextError: a blank concept.
        """
        check_texts([concept], "concept")
        name = noun(concept)
        return with_article(concept, self.kinds.get(name) or self.kinds.get(name.removesuffix("s"), ()))


def _checked(concept: Any, kinds: Any) -> tuple[str, ...]:
    if not isinstance(concept, str) or not concept or concept != noun(concept):
        allowed = "lower case, without an article, single spaces"
        raise OptionError("not the name of a concept", got=repr(concept), allowed=allowed)
    listed = tuple(kinds) if isinstance(kinds, list | tuple) else ()
    texts = all(isinstance(kind, str) and kind.strip() for kind in listed)
    if not listed or not texts or len(set(listed)) < len(listed) or concept in listed:
        allowed = "a list of one text or more, each once, without the concept itself"
        raise OptionError(f"not the kinds of {concept!r}", got=repr(kinds), allowed=allowed)
    return listed
