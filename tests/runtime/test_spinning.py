"""An explanation leaves no thread of NumPy's spinning, which would slow the next run of the engine (by a third)."""

from __future__ import annotations

import pytest

from eyeshine import Explainer
from eyeshine.methods import METHODS, by_passes
from eyeshine.methods.mmel import Mmel
from eyeshine.metrics import Insertion, Steps, evaluate

TEXTS = [f"a {colour} car" for colour in ("red", "blue")] * 50
"""So many that products over them are large even with the embedded model's 192 channels."""


@pytest.fixture(scope="module")
def explainer():
    return Explainer.load(threads=1)


@pytest.mark.parametrize(
    "method", [*(name for name, method in METHODS.items() if not by_passes(method)), Mmel(layers=1)], ids=str
)
def test_after_an_explanation(explainer, photo, left_running, method):
    image = photo(0, 120, 160)
    assert left_running(lambda: explainer.explain(image, TEXTS, method=method)) == 0


def test_after_heat_maps_and_pictures(explainer, photo, left_running):
    explanation = explainer.explain(photo(0, 480, 640), TEXTS[:5])
    assert left_running(explanation.heatmaps) == 0
    assert left_running(lambda: explanation.overlay(0, 0)) == 0


def test_after_a_curve_over_many_labels(explainer, photo, left_running):
    explanation = explainer.explain(photo(0, 224, 224), TEXTS[:1])
    labels = [f"a car {number:08b}".replace("0", " car").replace("1", " bus") for number in range(256)]
    metrics = {"insertion": Insertion("prob", Steps(insert=True, fill="blur", points=2, canvas="native"))}
    explainer.encode_texts([*labels, TEXTS[0]])
    assert left_running(lambda: evaluate(explainer, explanation, metrics=metrics, labels=[TEXTS[0], *labels])) == 0
