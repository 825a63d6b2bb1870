"""Concepts and their kinds: the table, and the vector that they make."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

from eyeshine import Explainer, roads
from eyeshine.errors import OptionError, ResponderError, TextError, UnknownWordsWarning
from eyeshine.responder import HYPERNYMS, HypernymTable, Response, expand_text, expanded_vector
from eyeshine.roads.vocabulary import LABELS, WEATHERS

TABLE = HypernymTable({"vehicle": ("car", "bus", "ambulance"), "road user": ("car", "pedestrian")})
SUPERCATEGORIES = "person vehicle outdoor animal accessory sports kitchen food furniture electronic appliance indoor"


def test_kinds_of_a_concept():
    assert TABLE.expand("vehicle") == ["car", "bus", "ambulance"]
    assert TABLE.expand(" Vehicles ") == ["car", "bus", "ambulance"]
    assert TABLE.expand("a Road  User") == ["a car", "a pedestrian"]
    assert TABLE.expand("an vehicle") == ["a car", "a bus", "an ambulance"]
    assert TABLE.expand("The vehicle") == ["the car", "the bus", "the ambulance"]
    assert TABLE.expand("car") == []
    assert TABLE.expand("a") == []


def test_the_built_in_table_is_above_every_word_of_the_roads_scenes():
    below = {kind for kinds in HYPERNYMS.values() for kind in kinds}
    assert {*LABELS, *WEATHERS} - {"clear"} <= below


def test_the_built_in_table_has_cocos_supercategories():
    for name in SUPERCATEGORIES.split():
        assert any(concept.startswith(name) for concept in HYPERNYMS), name
    assert {"car", "bus", "truck"} <= set(HypernymTable().expand("vehicle"))
    assert len(HypernymTable().expand("animal")) == 10


def test_a_table_from_a_file(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"pet": ["dog", "cat"]}), "utf-8")
    assert HypernymTable.from_file(path).expand("a pet") == ["a dog", "a cat"]


@pytest.mark.parametrize("text", ["", "[1]", '{"pet": "dog"}', '{"pet": []}', "{}", '{"pet": [1]}', "[" * 50_000])
def test_a_file_that_is_no_table(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text, "utf-8")
    with pytest.raises(OptionError):
        HypernymTable.from_file(path)
    with pytest.raises(OptionError, match="cannot be read"):
        HypernymTable.from_file(tmp_path / "missing.json")


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        None,
        {"Vehicle": ("car",)},
        {"a vehicle": ("car",)},
        {"": ("car",)},
        {3: ("car",)},
        {"vehicle": "car"},
        {"vehicle": ("car", "car")},
        {"vehicle": ("vehicle",)},
        {"vehicle": (" ",)},
        {"vehicle": None},
    ],
    ids=str,
)
def test_a_table_checks_itself(kinds):
    with pytest.raises(OptionError):
        HypernymTable(kinds)


def test_a_table_does_not_change_afterwards():
    kinds = {"vehicle": ["car"]}
    table = HypernymTable(kinds)
    kinds["vehicle"].append("bus")
    assert table.expand("vehicle") == ["car"]
    with pytest.raises(TypeError):
        table.kinds["vehicle"] = ("bus",)


def encode(texts):
    """Unit vectors that follow from a text's letters alone."""
    vectors = np.stack([np.random.default_rng(list(text.encode())).standard_normal(16) for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slow_mean(texts, weights):
    """The weighted mean's direction, in Python's own numbers."""
    rows = [[float(v) for v in encode([text])[0]] for text in texts]
    mean = [sum(w * row[k] for w, row in zip(weights, rows, strict=True)) for k in range(16)]
    length = math.sqrt(sum(v * v for v in mean))
    return [v / length for v in mean]


@pytest.mark.parametrize("weight", [0.25, 0.5, 1])
def test_the_vector_is_the_weighted_mean(weight):
    found = expanded_vector(encode, "vehicle", ["car", "bus"], weight)
    expected = slow_mean(["vehicle", "car", "bus"], [1 - weight, weight / 2, weight / 2])
    assert np.allclose(found.vector.vector, expected, atol=1e-6)
    assert (found.concept, str(found.vector)) == ("vehicle", "vehicle")
    assert found.concept_weight == 1 - weight
    assert [(part.text, part.weight) for part in found.added] == [("car", weight / 2), ("bus", weight / 2)]


@pytest.mark.parametrize(("kinds", "weight"), [([], 0.5), (["car"], 0)])
def test_nothing_added_is_the_concept(kinds, weight):
    found = expanded_vector(encode, "vehicle", kinds, weight)
    assert np.allclose(found.vector.vector, encode(["vehicle"])[0], atol=1e-6)
    assert (found.added, found.concept_weight) == ((), 1)
    assert str(found) == "vehicle: nothing to add"


def test_the_report_is_one_line():
    found = expanded_vector(encode, "vehicle", ["car", "bus"], 0.5, ["tram"])
    assert str(found) == "vehicle: 0.50 vehicle + 0.25 car + 0.25 bus; left out, never seen by the model: tram"
    assert str(expanded_vector(encode, "vehicle", ["car"], 1)) == "vehicle: 1.00 car"


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), "1", True, None])
def test_a_weight_outside_its_range(weight):
    with pytest.raises(OptionError, match=r"allowed: 0\.\.1"):
        expanded_vector(encode, "vehicle", ["car"], weight)


def test_texts_that_cancel_out():
    opposed = lambda texts: np.array([[1.0, 0.0], [-1.0, 0.0]][: len(texts)])
    with pytest.raises(TextError, match="cancel"):
        expanded_vector(opposed, "up", ["down"], 0.5)


@pytest.mark.parametrize(("concept", "kinds"), [(" ", ["car"]), ("vehicle", [" "]), ("vehicle", "car")])
def test_what_is_no_text(concept, kinds):
    with pytest.raises(TextError):
        expanded_vector(encode, concept, kinds)


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


PHOTO = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_the_similarity_is_the_mean_of_similarities(explainer):
    """Up to the length of the mean: it is what expanding claims to do to a score."""
    found = expand_text(explainer, "the house", HypernymTable({"house": ("car", "dog", "road")}), weight=0.6)
    texts = ["the house", "the car", "the dog", "the road"]
    expanded = float(explainer.explain(PHOTO, [found.vector]).similarities[0, 0])
    apart = explainer.explain(PHOTO, texts).similarities[0].astype(np.float64)
    weights = np.array([0.4, 0.2, 0.2, 0.2])
    length = np.linalg.norm(weights @ explainer.encode_texts(texts).astype(np.float64))
    assert expanded == pytest.approx(weights @ apart / length, abs=1e-5)


def test_words_that_the_model_never_saw_are_left_out_and_said(explainer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = expand_text(explainer, "a vehicle", HypernymTable({"vehicle": ("car", "tram")}), weight=1)
    assert [part.text for part in found.added] == ["a car"]
    assert found.left_out == ("a tram",)
    assert np.allclose(found.vector.vector, explainer.encode_texts(["a car"])[0], atol=1e-6)
    with pytest.warns(UnknownWordsWarning, match="vehicle"):
        expand_text(explainer, "a vehicle", HypernymTable({"vehicle": ("car", "tram")}))


def test_kinds_find_what_a_word_that_the_model_never_saw_does_not():
    """The pointing game of "a vehicle" on held-out road scenes, by the word and by its kinds."""
    explainer, hits = Explainer.load(threads=1), {0: 0, 1: 0}
    with pytest.warns(UnknownWordsWarning):
        vectors = [expand_text(explainer, "a vehicle", HypernymTable(), weight=weight).vector for weight in hits]
    scenes = [roads.render(seed=seed) for seed in range(2 * roads.HELD_OUT_FROM, 2 * roads.HELD_OUT_FROM + 40)]
    for scene in scenes:
        there = np.any([item.mask for item in scene.objects if item.label in ("car", "bus", "truck")], axis=0)
        for weight, heat in zip(hits, explainer.explain(scene.image, vectors).heatmap(), strict=True):
            hits[weight] += int(np.broadcast_to(there, heat.shape).ravel()[heat.argmax()])
    assert hits[1] >= 2 * hits[0] >= 4, hits


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": " "}, "answered nothing"),
        ({"tokens": None}, "1 for no tokens"),
        ({"tokens": ("a", "b")}, "1 for 2 tokens"),
        ({"logprobs": (0.1,)}, "not the logarithm"),
        ({"logprobs": (float("nan"),)}, "not the logarithm"),
        ({"logprobs": (float("-inf"),)}, "not the logarithm"),
    ],
)
def test_a_response_checks_itself(fields, said):
    right = {"text": "a", "tokens": ("a",), "logprobs": (-1.0,), "model": "m", "wall_ms": 1.0}
    assert Response(**right).complete
    with pytest.raises(ResponderError, match=said):
        Response(**{**right, **fields})
