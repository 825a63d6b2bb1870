"""Concept Drop, Negative Suppression, Confidence Drop and Increase against the papers' equations by slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from eyeshine.errors import OptionError
from eyeshine.metrics import ConceptDrop, ConfidenceDrop, ConfidenceIncrease, NegativeSuppression, evaluate
from eyeshine.metrics.views import Clean, Masked

TEXTS, NEGATIVES = ["a dog", "the red car"], ["a cat", "a blue house"]
LABELS = ["a dog", "a cat", "a tree"]


@pytest.fixture(scope="module", params=["tiny", "oblong"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def image(photo):
    return photo(3)


@pytest.fixture(scope="module")
def found(model, image):
    """Maps of both texts from the model, and their soft masks by loops."""
    return model.explain(image, TEXTS, method="chefer")


@pytest.fixture(scope="module")
def heats(model, found, slow):
    return [slow.heat(found.maps[0, p], 8, *model.preprocess.size) for p in range(2)]


def values(model, image, metric, **given):
    result = model.evaluate(image, TEXTS, method="chefer", metrics={"m": metric}, **given)
    return [result.score("m", 0, p) for p in range(2)]


@pytest.mark.parametrize("fill", ["mean", "black"])
@pytest.mark.parametrize("binary", [None, 0.5])
def test_concept_drop_is_equation_4(model, image, found, heats, slow, fill, binary):
    """ConceptDrop = (Sim(I, T) - Sim(I * (1 - M), T)) / Sim(I, T)."""
    got = values(model, image, ConceptDrop(fill=fill, binary=binary))
    for p, text in enumerate(TEXTS):
        mask = heats[p] if binary is None else (heats[p] >= binary) * 1.0
        whole = slow.cosine(model, model.preprocess.prepare(image).pixels, text)
        removed = slow.cosine(model, slow.masked(model, image, 1 - mask, fill), text)
        assert got[p].value == pytest.approx((whole - removed) / whole, abs=1e-4)
        assert got[p].band == ("critical" if whole and (whole - removed) / whole > 0 else "not critical")


def softmax(logits, index):
    return math.exp(logits[index]) / sum(math.exp(value) for value in logits)


def test_concept_drop_of_probabilities(model, image, heats, slow):
    """S is the softmax over the labels; a text that is none of them is added for itself."""
    got = values(model, image, ConceptDrop("prob"), labels=LABELS)
    scale = model.bundle.manifest.model.logit_scale
    for p, text in enumerate(TEXTS):
        among = LABELS if text in LABELS else [*LABELS, text]
        images = [model.preprocess.prepare(image).pixels, slow.masked(model, image, 1 - heats[p], "mean")]
        whole, removed = (
            softmax([scale * slow.cosine(model, x, label) for label in among], among.index(text)) for x in images
        )
        assert got[p].value == pytest.approx((whole - removed) / whole, abs=1e-4)


def test_negative_suppression_is_the_margin_on_the_kept_region(model, image, heats, slow):
    got = values(model, image, NegativeSuppression(), negative=NEGATIVES)
    scale = model.bundle.manifest.model.logit_scale
    for p in range(2):
        kept = slow.masked(model, image, heats[p], "mean")
        expected = scale * (slow.cosine(model, kept, TEXTS[p]) - slow.cosine(model, kept, NEGATIVES[p]))
        assert got[p].value == pytest.approx(expected, abs=1e-4 * scale)
        assert "logit scale of 100" in got[p].flags[0]


@pytest.mark.parametrize("on", ["full", "kept"])
def test_ratio_raw_is_equation_5(model, image, heats, slow, on):
    """NS = Sim(I, T+) / (Sim(I, T-) + e); on="full" is the equation to the letter: it holds no map."""
    got = values(model, image, NegativeSuppression("ratio_raw", on), negative=NEGATIVES)
    for p in range(2):
        x = model.preprocess.prepare(image).pixels if on == "full" else slow.masked(model, image, heats[p], "mean")
        positive, negative = slow.cosine(model, x, TEXTS[p]), slow.cosine(model, x, NEGATIVES[p])
        assert got[p].value == pytest.approx(positive / (negative + 1e-8), rel=1e-4)
        assert got[p].band is None


def test_drop_ratio_is_equation_4_over_equation_4(model, image, heats, slow):
    got = values(model, image, NegativeSuppression("drop_ratio"), negative=NEGATIVES)
    for p in range(2):
        whole, removed = model.preprocess.prepare(image).pixels, slow.masked(model, image, 1 - heats[p], "mean")
        drops = []
        for text in (TEXTS[p], NEGATIVES[p]):
            s = slow.cosine(model, whole, text)
            drops.append((s - slow.cosine(model, removed, text)) / s)
        assert got[p].value == pytest.approx(drops[0] / drops[1], rel=1e-3)


def test_confidence_drop_and_increase_are_those_of_m2ib(model, image, heats, slow):
    drop = values(model, image, ConfidenceDrop())
    percent = values(model, image, ConfidenceDrop("percent"))
    increase = values(model, image, ConfidenceIncrease())
    for p, text in enumerate(TEXTS):
        whole = slow.cosine(model, model.preprocess.prepare(image).pixels, text)
        delta = slow.cosine(model, slow.masked(model, image, heats[p], "mean"), text) - whole
        assert abs(delta) > 1e-4  # else the next lines would compare rounding
        assert drop[p].value == pytest.approx(max(0, -delta), abs=1e-5)
        assert increase[p].value == (1 if delta > 0 else 0)
        if whole > 0:
            assert percent[p].value == pytest.approx(100 * max(0, -delta) / whole, rel=1e-3, abs=1e-3)
        else:
            assert percent[p].value is None


def unit(angle):
    return np.array([math.cos(angle), math.sin(angle), 0, 0], np.float32)


def vectors(metric, clean, masked):
    """Embeddings whose cosines with the text (1, 0, 0, 0) are given, in the plane of the first two axes."""
    return {v: unit(math.acos(clean if isinstance(v, Clean) else masked))[None] for v in metric.views}


def test_the_papers_number_of_a_percent_is_a_fraction(case_of):
    """Figure 5: 0.118 is printed, and "drop down by 11.8 %" said of it."""
    metric = ConceptDrop()
    score = metric.read(case_of([[0, 1]]), vectors(metric, 0.27, 0.27 * (1 - 0.118)))
    assert score.value == pytest.approx(0.118, abs=1e-5)
    assert metric.unit == "fraction"


def test_percent_is_a_share_of_the_whole_image(case_of):
    metric = ConfidenceDrop("percent")
    assert metric.read(case_of([[0, 1]]), vectors(metric, 0.25, 0.2)).value == pytest.approx(20, abs=1e-4)
    assert metric.read(case_of([[0, 1]]), vectors(metric, 0.25, 0.3)).value == 0
    assert metric.read(case_of([[0, 1]]), vectors(metric, -0.25, -0.3)).value is None


@pytest.mark.parametrize(
    ("margin", "band"),
    [(5.569, "distinguishes"), (-10.318, "fails"), (2.248, "partly"), (1.657, "fails"), (4.99, "partly")],
)
def test_bands_of_negative_suppression_are_the_papers(case_of, margin, band):
    """The four printed values as margins of cosines, logit scale 100: text on axis 1, negative text on axis 2."""
    metric = NegativeSuppression()
    case = case_of([[0, 1]], contrast=np.eye(4)[1])
    a = 0.3
    kept = np.array([[a, a - margin / 100, math.sqrt(1 - a**2 - (a - margin / 100) ** 2), 0]], np.float32)
    score = metric.read(case, {metric.views[0]: kept})
    assert score.value == pytest.approx(margin, abs=1e-4)
    assert score.band == band
    assert score.flags == ()


def test_a_similarity_near_zero_is_said_and_a_negative_one_too(case_of):
    drop = ConceptDrop()
    nothing = drop.read(case_of([[0, 1]]), vectors(drop, 0.0005, -0.2))
    assert nothing.value is None
    assert "nearly 0" in nothing.flags[0]
    turned = drop.read(case_of([[0, 1]]), vectors(drop, -0.2, -0.3))
    assert turned.value == pytest.approx(-0.5, abs=1e-5)
    assert "sign" in turned.flags[0]
    ratio = NegativeSuppression("ratio_raw")
    assert ratio.read(case_of([[0, 1]], contrast=np.eye(4)[3]), vectors(ratio, 0.3, 0.3)).value is None
    ratio = NegativeSuppression("drop_ratio")
    assert ratio.read(case_of([[0, 1]], contrast=np.eye(4)[3]), vectors(ratio, 0.3, 0.2)).value is None


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_flat_map_keeps_and_removes_nothing_and_is_flagged(tiny, image, level):
    found = tiny.explain(image, ["a dog"])
    rng = np.random.default_rng(0)
    maps = level * (1 + 1e-7 * rng.random(found.maps.shape, dtype=np.float32))  # a constant, but for rounding
    result = evaluate(tiny, replace(found, maps=maps), negative="a cat")
    for name in result.metrics:
        score = result.score(name)
        assert score.value is not None
        assert "no contrast" in score.flags[0]
    assert result.score("concept_drop").value == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConceptDrop("margin"), "score"),
        (lambda: ConceptDrop(fill="grey"), "fill"),
        (lambda: ConceptDrop(binary=0), "binary"),
        (lambda: ConceptDrop(binary=1.5), "binary"),
        (lambda: NegativeSuppression("literal"), "form"),
        (lambda: NegativeSuppression(on="half"), "unknown on"),
        (lambda: NegativeSuppression("drop_ratio", on="full"), "two images"),
        (lambda: ConfidenceDrop("relative"), "form"),
        (lambda: ConfidenceIncrease(fill=None), "fill"),
        (lambda: Masked(True, binary="x"), "binary"),
    ],
)
def test_options_check_themselves(make, said):
    with pytest.raises(OptionError, match=said):
        make()
