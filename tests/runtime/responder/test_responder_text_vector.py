"""Vectors of other models in the place of texts."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.errors import TextError
from eyeshine.saving import save_image_results
from eyeshine.texts import TextVector


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


PHOTO = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_the_vector_of_a_text_is_explained_as_the_text(explainer):
    texts = ["a dog", "a red car"]
    vectors = [TextVector(f"external {k}", 3.7 * v) for k, v in enumerate(explainer.encode_texts(texts))]
    expected, got = explainer.explain(PHOTO, texts), explainer.explain(PHOTO, vectors)
    assert got.texts == tuple(vectors)
    assert json.loads(json.dumps(got.record()))["texts"] == ["external 0", "external 1"]
    assert np.abs(got.maps - expected.maps).max() <= 1e-4 * expected.maps.max()
    assert np.abs(got.similarities - expected.similarities).max() <= 1e-4


def test_texts_and_vectors_mix_and_stand_against_each_other(explainer):
    car = explainer.encode_texts(["a car"])[0]
    other = TextVector("a dog", car)  # named after another text on purpose: a name says nothing
    got = explainer.explain(PHOTO, ["a dog", other], against=[other, "a cat"])
    expected = explainer.explain(PHOTO, ["a dog", "a car"], against=["a car", "a cat"])
    assert np.abs(got.maps - expected.maps).max() <= 1e-4 * expected.maps.max()
    assert not np.allclose(got.maps[0, 0], got.maps[0, 1])
    rest = explainer.explain(PHOTO, ["a dog", other], against="rest")
    assert np.abs(rest.maps - explainer.explain(PHOTO, ["a dog", "a car"], against="rest").maps).max() <= 1e-6


def test_a_vector_is_encoded_as_itself_and_never_cached(explainer):
    values = np.random.default_rng(1).standard_normal(24)
    text = TextVector("a cat", values)
    before = len(explainer.texts)
    got = explainer.encode_texts([text, text])
    assert len(explainer.texts) == before
    assert np.allclose(got, values / np.sqrt((values**2).sum()), atol=1e-7)
    assert not np.allclose(explainer.encode_texts(["a cat"])[0], got[0], atol=1e-2)


def test_metrics_take_the_vector_and_not_the_name(explainer):
    car = TextVector("a dog", explainer.encode_texts(["a red car"])[0])
    by_vector, by_text = (explainer.evaluate(PHOTO, [text], metrics=["deletion"]) for text in (car, "a red car"))
    by_name = explainer.evaluate(PHOTO, ["a dog"], metrics=["deletion"])
    found, expected, other = (each.score("deletion") for each in (by_vector, by_text, by_name))
    assert found.value == pytest.approx(expected.value, abs=1e-4)
    assert found.value != pytest.approx(other.value, abs=1e-3)


def test_results_are_saved_under_the_name(explainer, tmp_path):
    result = explainer.explain(PHOTO, [TextVector("an idea", np.ones(24))])
    picture, archive = save_image_results(result, tmp_path, "photo")
    assert "an-idea" in picture.name
    with np.load(archive, allow_pickle=False) as saved:
        assert saved["texts"].tolist() == ["an idea"]


def test_a_vector_equals_itself_alone():
    text = TextVector("a cat", [1.0, 2.0])
    twin = TextVector("a cat", [1.0, 2.0])
    word = "a cat"
    assert text in [text]
    assert [word == text, text == word, text == twin] == [False, False, False]
    assert [word != text, text != word, text != twin] == [True, True, True]
    assert len({text, twin, "a cat"}) == 3
    assert f"{text}, {text!r}" == "a cat, 'a cat'"


def test_a_vector_survives_copies_and_processes():
    text = TextVector("a cat", [3.0, 4.0])
    for other in (pickle.loads(pickle.dumps(text)), copy.deepcopy(text)):
        assert str(other) == "a cat"
        assert other.vector.tolist() == pytest.approx([0.6, 0.8])


def test_a_vector_does_not_change_with_the_callers_array():
    values = np.array([1.0, 0.0], np.float32)
    text = TextVector("x", values)
    values[:] = 0
    assert text.vector.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        text.vector[0] = 2


def test_a_large_vector_keeps_its_direction():
    assert TextVector("x", np.array([3e30, 4e30], np.float32)).vector.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("name", "vector", "said"),
    [
        (" ", [1.0], "needs a name"),
        (7, [1.0], "needs a name"),
        ("x", [0.0, 0.0], "no direction; got zeros"),
        ("x", [1.0, np.nan], "not finite"),
        ("x", [1.0, np.inf], "not finite"),
        ("x", [[1.0, 2.0]], "another shape; got \\[1, 2\\]"),
        ("x", 1.0, "another shape"),
        ("x", [], "another shape"),
        ("x", ["a", "b"], "not numeric"),
        ("x", [[1.0], [1.0, 2.0]], "not numeric"),
    ],
)
def test_what_has_no_direction_is_refused(name, vector, said):
    with pytest.raises(TextError, match=said):
        TextVector(name, vector)


def test_a_vector_of_another_space_is_refused(explainer):
    with pytest.raises(TextError, match="another space; got 23; allowed: 24"):
        explainer.explain(PHOTO, ["a dog", TextVector("x", np.ones(23))])
