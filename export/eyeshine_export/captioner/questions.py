"""Questions about a road scene and their true answers.

Every answer follows from the scene by a rule, with no choice left open, so that it can be scored word by word. Only
"give a caption" is answered by one of many true sentences.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eyeshine import roads
from eyeshine.roads import LABELS, LIGHTS, PHRASES, WEATHERS, Scene, article
from eyeshine.roads.vocabulary import COLOURS, LABEL_OF, phrase, plural

__all__ = ["DESCRIBE", "LIST", "Thing", "Truth", "captioned", "described", "exam", "listed", "vocabulary"]

DESCRIBE = ("describe this image", "describe the scene", "what do you see?", "describe what you see")
LIST = ("what is on the road?", "what is there?", "list the objects", "which objects are there?")
CAPTION = ("give a caption", "caption this image")
PRESENT = ("is there {}?", "do you see {}?", "is {} in the image?")
COLOUR = ("what colour is the {}?",)
PLACE = ("where is the {}?",)
WEATHER = ("what is the weather?", "how is the weather?")
LIGHT = ("what time of day is it?", "is it day or night?")
PLACES = ("left", "middle", "right")
_NAMED = 3  # objects that a description names
_IN_WEATHER = {"clear": "in clear weather", "rain": "in the rain", "fog": "in fog", "snow": "in the snow"}
_AT = {"day": "by day", "dusk": "at dusk", "night": "at night"}

Exchange = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Thing:
    """An object of a scene.

    Attributes:
        phrase: label with article and colour, one of ``roads.PHRASES``.
        share: of the picture that it covers, 0 to 1.
        across: x of the centre of its visible pixels, 0 (left) to 1.
    """

    phrase: str
    share: float
    across: float

    @property
    def label(self) -> str:
        return LABEL_OF[self.phrase]

    @property
    def colour(self) -> str:
        """Its colour, empty for a label that has none."""
        return next(colour for colour in COLOURS[self.label] if phrase(self.label, colour) == self.phrase)

    @property
    def place(self) -> str:
        """In which third of the picture its centre is: one of ``PLACES``."""
        return PLACES[min(2, int(3 * self.across))]


@dataclass(frozen=True)
class Truth:
    """What is true of a scene.

    Attributes:
        things: largest first.
        weather, light: words from ``roads.WEATHERS`` and ``roads.LIGHTS``.
    """

    things: tuple[Thing, ...]
    weather: str
    light: str

    @classmethod
    def of(cls, scene: Scene) -> Truth:
        width = scene.image.shape[1]
        things = []
        for thing in scene.objects:
            columns = thing.mask.sum(axis=0)
            across = float((columns * (np.arange(width) + 0.5)).sum() / columns.sum() / width)
            things.append(Thing(thing.phrase, float(thing.mask.mean()), across))
        return cls(tuple(sorted(things, key=lambda thing: -thing.share)), scene.weather, scene.light)

    def as_record(self) -> dict[str, Any]:
        """Plain values; ``from_record`` reads them."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Truth:
        return cls(tuple(Thing(**thing) for thing in record["things"]), record["weather"], record["light"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels there are, each once, in the order of ``roads.LABELS``."""
        there = {thing.label for thing in self.things}
        return tuple(label for label in LABELS if label in there)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases there are, each once, largest object first."""
        return tuple(dict.fromkeys(thing.phrase for thing in self.things))

    def facts(self) -> Counter[str]:
        """As ``Scene.facts``."""
        return roads.facts_of([thing.phrase for thing in self.things], self.weather, self.light)


def _series(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def described(truth: Truth) -> str:
    """The three largest objects with their colours, the weather and the light."""
    return f"{_series(truth.phrases[:_NAMED])} on a road {_IN_WEATHER[truth.weather]} {_AT[truth.light]}"


def listed(truth: Truth) -> str:
    """All labels, in the order of ``roads.LABELS``."""
    return _series(truth.labels)


def captioned(truth: Truth, rng: np.random.Generator) -> str:
    """One of the roads captions that are true of the scene, drawn at random."""
    return roads.captions(truth.facts(), rng, 1)[0].text


def _pick(options: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def presence(truth: Truth, rng: np.random.Generator) -> Exchange:
    """Whether there is an object of a label; as often yes as no."""
    yes = rng.random() < 0.5
    label = _pick([x for x in LABELS if (x in truth.labels) == yes], rng)
    return _pick(PRESENT, rng).format(article(label)), "yes" if yes else "no"


def coloured_presence(truth: Truth, rng: np.random.Generator) -> Exchange:
    """Whether there is an object of a phrase; half of the absent ones have a label that is there."""
    yes = rng.random() < 0.5
    options = [x for x in PHRASES if (x in truth.phrases) == yes]
    if not yes and rng.random() < 0.5:
        options = [x for x in options if LABEL_OF[x] in truth.labels] or options
    return _pick(PRESENT, rng).format(_pick(options, rng)), "yes" if yes else "no"


def _one_or_none(labels: list[str], truth: Truth, rng: np.random.Generator) -> str:
    """One of these labels of which the scene holds one object (four times of five) or none."""
    counts = Counter(thing.label for thing in truth.things)
    single = [x for x in labels if counts[x] == 1]
    return _pick(single if single and rng.random() < 0.8 else [x for x in labels if not counts[x]], rng)


def colour(truth: Truth, rng: np.random.Generator) -> Exchange:
    """The colour of a label of which there is one object, or that there is none."""
    label = _one_or_none([x for x in LABELS if COLOURS[x] != ("",)], truth, rng)
    for thing in truth.things:
        if thing.label == label:
            return _pick(COLOUR, rng).format(label), thing.colour
    return _pick(COLOUR, rng).format(label), f"there is no {label}"


def place(truth: Truth, rng: np.random.Generator) -> Exchange:
    """In which third of the picture the one object of a label is, or that there is none."""
    label = _one_or_none(list(LABELS), truth, rng)
    for thing in truth.things:
        if thing.label == label:
            return _pick(PLACE, rng).format(label), thing.place
    return _pick(PLACE, rng).format(label), f"there is no {label}"


def exam(truth: Truth, rng: np.random.Generator) -> list[Exchange]:
    """Eight questions about one scene with their answers: what one training step asks of it."""
    last = rng.random()
    return [
        (_pick(DESCRIBE, rng), described(truth)),
        (_pick(LIST, rng), listed(truth)),
        (_pick(CAPTION, rng), captioned(truth, rng)),
        presence(truth, rng),
        presence(truth, rng),
        coloured_presence(truth, rng),
        colour(truth, rng) if rng.random() < 0.5 else place(truth, rng),
        (_pick(WEATHER, rng), truth.weather) if last < 0.15
        else (_pick(LIGHT, rng), truth.light) if last < 0.3
        else place(truth, rng) if last < 0.6
        else presence(truth, rng),
    ]  # fmt: skip


def vocabulary() -> tuple[str, ...]:
    """Every word that a question or an answer can hold, sorted, punctuation included."""
    texts = [*DESCRIBE, *LIST, *CAPTION, *PRESENT, *COLOUR, *PLACE, *WEATHER, *LIGHT, *PLACES]
    texts += [*_IN_WEATHER.values(), *_AT.values(), *WEATHERS, *LIGHTS, *PHRASES, "on a road", "yes", "no", ", and"]
    texts += ["there is no", *roads.words(), *(plural(label) for label in LABELS)]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z]+|[,?]", text)}))
