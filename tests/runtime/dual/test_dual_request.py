"""Dual requests on the embedded model: what they hold, and what is wrong with bad ones."""

from __future__ import annotations

import json
from time import process_time
from types import SimpleNamespace

import numpy as np
import pytest

from eyeshine import Explainer, roads
from eyeshine.dual import DualOptions, Thresholds, explain_dual
from eyeshine.errors import OptionError, ResponderError, TextError
from eyeshine.metrics import evaluate

SEED = 930_000_002  # a stop sign, a green bus, two buildings, a crosswalk, a pedestrian and a dog
PROMPT, ANSWER = "where is the stop sign?", "there is a green bus on the road"


@pytest.fixture(scope="module")
def explainer():
    return Explainer.load(threads=1)


@pytest.fixture(scope="module")
def image():
    return roads.render(seed=SEED).image


class Says:
    """A responder of a few answers, one after the other."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    def respond(self, image, prompt):
        self.seen.append((image, prompt))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def said(text):
    return SimpleNamespace(text=text)


def test_maps_and_presence_are_those_of_the_concepts_alone(explainer, image):
    got = explain_dual(explainer, image, PROMPT, ANSWER)
    labels = [roads.article(label) for label in roads.LABELS]
    listed = np.sort(explainer.explain(image, labels).similarities[0].astype(np.float64))
    scale = explainer.bundle.manifest.model.logit_scale
    for side, text in ((got.asked, "a stop sign"), (got.said, "a green bus")):
        alone = explainer.explain(image, [text])
        assert [concept.text for concept in side.concepts] == [text]
        largest = np.abs(alone.maps).max()
        np.testing.assert_allclose(side.maps[0], alone.maps[0, 0], atol=1e-4 * largest)  # docs/numerics.md: maps
        odds = scale * (float(alone.similarities[0, 0]) - sum(listed[:7]) / 7)
        assert side.presence[0] == pytest.approx(odds, abs=1e-4 * scale * 2)
    assert got.verdict.kind == "divergent"


def test_metrics_are_those_of_the_concepts(explainer, image):
    got = explain_dual(explainer, image, PROMPT, ANSWER, options=DualOptions(metrics=True))
    alone = explainer.explain(image, ["a stop sign", "a green bus"])
    assert got.evaluation is not None
    drop = evaluate(explainer, alone, metrics="concept_drop")
    for index, text in enumerate(alone.texts):
        assert got.score("concept_drop", text) == pytest.approx(drop.score("concept_drop", 0, index).value, abs=1e-3)
    # The negative text of each is present and another one: the least similar, worked out here from the vectors.
    scale = explainer.bundle.manifest.model.logit_scale
    present = [t for t in got.explanation.texts[2:] if _odds(got, t, scale) >= Thresholds().presence]
    for index, text in enumerate(alone.texts):
        others = [other for other in present if other != text]
        cosines = explainer.encode_texts(others) @ explainer.encode_texts([text])[0]
        negative = others[int(cosines.argmin())]
        own = evaluate(explainer, alone, metrics="negative_suppression", negative=[negative, negative])
        expected = own.score("negative_suppression", 0, index).value
        assert got.score("negative_suppression", text) == pytest.approx(expected, abs=1e-2)


def _odds(result, text, scale):
    """Log odds of any text of the explanation, from its cosine and that of a concept whose log odds are known."""
    explanation = result.explanation
    cosines = dict(zip(explanation.texts, explanation.similarities[0], strict=True))
    known = result.asked
    return float(known.presence[0] + scale * (cosines[text] - cosines[known.concepts[0].text]))


def test_a_responder_is_asked_twice_the_second_time_without_the_image(explainer, image):
    responder = Says(said("a stop sign"), said("a stop sign!"))
    got = explain_dual(explainer, image, PROMPT, responder=responder)
    (first, prompt), (second, again) = responder.seen
    assert prompt == again == PROMPT
    assert (first == image).all()
    assert second.shape == image.shape
    assert (second == second[0, 0]).all()
    assert np.abs(second[0, 0] - image.reshape(-1, 3).mean(axis=0)).max() <= 0.5
    assert got.blind_answer == "a stop sign!"
    assert got.verdict.kind == "guessed"


def test_a_responder_is_asked_once_where_that_is_wished(explainer, image):
    responder = Says(said("a stop sign"))
    options = DualOptions(ask_blind=False)
    got = explain_dual(explainer, image, PROMPT, responder=responder, options=options)
    assert (len(responder.seen), got.blind_answer, got.verdict.kind) == (1, None, "coherent")


def test_another_answer_without_the_image_is_no_guess(explainer, image):
    responder = Says(said("a stop sign"), said("a cone"))
    assert explain_dual(explainer, image, PROMPT, responder=responder).verdict.kind == "coherent"


def test_an_answer_that_says_more_than_the_one_without_the_image_is_no_guess(explainer, image):
    for blind, kind in (("a stop sign", "coherent"), ("a green bus, a stop sign and a cone", "guessed")):
        got = explain_dual(explainer, image, PROMPT, "a stop sign and a green bus", blind_answer=blind)
        assert got.verdict.kind == kind
        vectors = explainer.encode_texts(["a stop sign", "a green bus"])
        expected = float(vectors[0] @ vectors[1]) if kind == "coherent" else 1.0
        assert got.signals.blind_similarity == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("answer", ["yes", "42", "red", "???", "a spaceship and a nebula"])
def test_an_answer_without_concepts_gets_no_verdict_and_a_reason(explainer, image, answer):
    got = explain_dual(explainer, image, PROMPT, answer)
    assert got.verdict.kind == "none"
    assert "names nothing" in got.verdict.reasons[0]
    json.dumps(got.record(), allow_nan=False)
    got.figure()


def test_words_that_the_model_never_saw_are_named(explainer, image):
    got = explain_dual(explainer, image, "is there a shiny bus?", "a green bus and a spaceship")
    assert [concept.text for concept in got.asked.concepts] == ["a bus"]
    assert got.said.unknown == ("spaceship",)
    assert got.verdict.kind == "coherent"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionRefusedError("connection refused"), "cannot be reached.*connection refused"),
        (TimeoutError("timed out"), "cannot be reached"),
        (said(" "), "answered no text"),
        (said(None), "answered no text"),
        ("a bare string", "answered no text"),
        (None, "answered no text"),
    ],
)
def test_responders_that_fail(explainer, image, answer, message):
    with pytest.raises(ResponderError, match=message):
        explain_dual(explainer, image, PROMPT, responder=Says(answer))


def test_bad_requests(explainer, image):
    with pytest.raises(OptionError, match="nobody answers"):
        explain_dual(explainer, image, PROMPT)
    for prompt, answer in ((" ", ANSWER), (PROMPT, " ")):
        with pytest.raises(TextError, match="blank"):
            explain_dual(explainer, image, prompt, answer)


@pytest.mark.parametrize(
    "wrong", [{"tau": 0.0}, {"tau": 1}, {"tau": "x"}, {"candidates": ["a", "b"]}, {"candidates": "x"}]
)
def test_options_check_themselves(wrong):
    with pytest.raises(OptionError):
        DualOptions(**wrong)


def test_an_image_that_shows_nothing(explainer):
    grey = np.full((120, 160, 3), 128, np.uint8)
    got = explain_dual(explainer, grey, PROMPT, "a stop sign")
    assert got.verdict.kind == "guessed"
    record = json.dumps(got.record(), allow_nan=False)
    assert "NaN" not in record


def test_requests_are_alike_run_after_run(explainer, image):
    first, second = (explain_dual(explainer, image, PROMPT, ANSWER) for _ in range(2))
    assert first.signals == second.signals
    assert first.comparison == second.comparison


def test_a_request_costs_at_most_two_and_a_half_explanations(explainer, image):
    """Processor time, the two in turn, so that other work on the machine does not count."""
    seconds = {"one": [], "dual": []}
    for _ in range(15):
        for name, call in (
            ("one", lambda: explainer.explain(image, ["a stop sign"])),
            ("dual", lambda: explain_dual(explainer, image, PROMPT, ANSWER)),
        ):
            started = process_time()
            call()
            seconds[name].append(process_time() - started)
    assert np.median(seconds["dual"]) <= 2.5 * np.median(seconds["one"])
