"""Sentences that are true of a scene, each with the claims it makes, so that it can be checked against others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from eyeshine.roads.vocabulary import LABEL_OF, LABELS, LIGHTS, PHRASES, WEATHERS, article, plural

_WEATHER_WORDS = {
    "clear": ("in clear weather", "under a clear sky"),
    "rain": ("in the rain", "on a rainy day"),
    "fog": ("in fog", "on a foggy day"),
    "snow": ("in the snow", "on a snowy day"),
}
_LIGHT_WORDS = {
    "day": ("by day", "in daylight"),
    "dusk": ("at dusk", "in the evening light"),
    "night": ("at night", "in the dark"),
}
_PLACES = ("on a road", "on the road", "in a street", "by the road", "in the city")
_ONE = (
    "{}",
    "{}",
    "a photo of {}",
    "a picture of {}",
    "there is {}",
    "{} {place}",
    "a road with {}",
    "a street with {}",
)
_TWO = ("{} and {}", "{} next to {}", "a street with {} and {}", "{} and {} {place}", "there is {} and {} {place}")
_THREE = ("{}, {} and {}", "a road with {}, {} and {}", "{}, {} and {} {place}", "a photo of {}, {} and {}")
_SCENE = ("a road {}", "a street {}", "a road scene {}")

Claim = tuple[str, int]


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims.

    ``claims`` holds pairs (fact, least count); a fact is a label, a phrase of ``PHRASES``, a weather or a light. The
    sentence is true of every scene whose ``facts`` reach all of these counts.
    """

    text: str
    claims: tuple[Claim, ...]

    def holds(self, facts: Counter[str]) -> bool:
        """Whether the sentence is true of a scene with these facts."""
        return all(facts[fact] >= least for fact, least in self.claims)


FACTS: tuple[str, ...] = (*LABELS, *(p for p in PHRASES if p not in LABELS), *WEATHERS, *LIGHTS)


def facts_of(phrases: list[str], weather: str, light: str) -> Counter[str]:
    """How often each fact holds of a scene with objects of these phrases, in this weather and light."""
    return Counter([*phrases, *(LABEL_OF[p] for p in phrases), weather, light])


def _name(phrase: str, facts: Counter[str], rng: np.random.Generator) -> tuple[str, Claim]:
    """Name an object with its colour, without it, or (if there are several) in the plural."""
    label, roll = LABEL_OF[phrase], rng.random()
    if roll < 0.12 and facts[label] > 1:
        return plural(label), (label, 2)
    if roll < 0.5:
        return article(label), (label, 1)
    return phrase, (phrase, 1)


def _tail(facts: Counter[str], rng: np.random.Generator) -> tuple[str, Claim]:
    """Words for the weather or for the light."""
    words = _WEATHER_WORDS if rng.random() < 0.5 else _LIGHT_WORDS
    fact = next(word for word in words if facts[word])
    return words[fact][int(rng.integers(len(words[fact])))], (fact, 1)


def captions(facts: Counter[str], rng: np.random.Generator, count: int) -> tuple[Caption, ...]:
    """``count`` sentences that are true of a scene with these facts, which must hold at least one object.

    Args:
        facts: as ``Scene.facts`` or ``facts_of`` give them.
        rng: chooses objects, templates and words.
        count: how many, repeats allowed, at least 1.
    """
    phrases = [p for p in PHRASES if facts[p]]
    out = []
    for _ in range(count):
        named = min(len(phrases), int(rng.choice(4, p=(0.05, 0.45, 0.3, 0.2))))
        if named == 0:
            words, claim = _tail(facts, rng)
            out.append(Caption(_SCENE[int(rng.integers(len(_SCENE)))].format(words), (claim,)))
            continue
        chosen = rng.choice(len(phrases), size=named, replace=False)
        names = [_name(phrases[k], facts, rng) for k in chosen]
        templates = (_ONE, _TWO, _THREE)[named - 1]
        template = templates[int(rng.integers(len(templates)))]
        text = template.format(*(name for name, _ in names), place=_PLACES[int(rng.integers(len(_PLACES)))])
        claims = [claim for _, claim in names]
        if rng.random() < 0.2:
            words, claim = _tail(facts, rng)
            text = f"{text} {words}"
            claims.append(claim)
        out.append(Caption(text, tuple(claims)))
    return tuple(out)


def words() -> tuple[str, ...]:
    """Every word that a caption can hold, sorted, without punctuation."""
    parts = [*_ONE, *_TWO, *_THREE, *_SCENE, *_PLACES, *PHRASES, *LABELS, *(plural(label) for label in LABELS)]
    parts += [article(label) for label in LABELS]
    for table in (_WEATHER_WORDS, _LIGHT_WORDS):
        parts += [text for texts in table.values() for text in texts]
    found = {word.strip(",.") for part in parts for word in part.split() if "{" not in word}
    return tuple(sorted(found - {""}))
