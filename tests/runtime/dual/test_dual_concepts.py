"""Concept words against what a reader takes from the same sentences."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine import roads
from eyeshine.dual.concepts import extract_concepts, subjects
from eyeshine.errors import TextError


def texts(sentence):
    return [concept.text for concept in subjects(extract_concepts(sentence))]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Can you see any pedestrians in this image?", ["pedestrians"]),
        ("Describe this image.", []),
        ("What do you see?", []),
        ("I don't like winter.", ["winter"]),
        ("is there a red car on the road?", ["a red car"]),
        ("there is a pedestrian in red and a dog", ["a pedestrian in red", "a dog"]),
        ("a stop sign next to the orange tree", ["a stop sign", "an orange tree"]),
        ("Stop at the traffic light!", ["a traffic light"]),
        ("a photo of a street", ["a street"]),
        ("two parked cars, waiting", ["cars"]),
        ("There is no dog, but a bench.", ["a bench"]),
        ("a road without cars", ["a road"]),
        ("What colour is the bus?", ["a bus"]),
        ("red", []),
        ("Yes.", []),
        ("a car, a car and a white car", ["a car", "a white car"]),
        ("the brown building slowly grows", ["a brown building", "grows"]),  # a verb of no list: a known limit
    ],
)
def test_what_a_reader_takes_from_a_sentence(sentence, expected):
    assert texts(sentence) == expected


def test_objects_of_captions_are_found():
    """Captions are made from phrases; what they claim of objects is what has to be found, colours included."""
    rng = np.random.default_rng(0)
    facts = roads.facts_of(
        ["a red car", "a pedestrian in blue", "a green traffic light", "a stop sign"], "snow", "night"
    )
    for caption in roads.captions(facts, rng, 200):
        claimed = {roads.article(fact) if fact in roads.LABELS else fact for fact, _ in caption.claims}
        objects = claimed - set(roads.WEATHERS) - set(roads.LIGHTS)
        if objects and all(count == 1 for _, count in caption.claims):
            assert set(texts(caption.text)) == objects, caption.text


def test_scenery_is_kept_where_nothing_else_is_named():
    (street,) = extract_concepts("a photo of a street")
    assert street.scenery
    bus, road = extract_concepts("a bus on the road")
    assert subjects([bus, road]) == (bus,)
    assert subjects([road, road]) == (road,)


def test_plurals():
    assert [concept.plural for concept in extract_concepts("cars and a bus, a bench, buses")] == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("wrong", ["", "  ", 3])
def test_bad_texts(wrong):
    with pytest.raises(TextError):
        extract_concepts(wrong)
