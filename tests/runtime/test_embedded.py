"""The embedded roads model: it is there, it is small, and it finds things on scenes that it never saw."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eyeshine import Explainer, roads
from eyeshine.bundle import default_bundle
from eyeshine.cli import main
from eyeshine.errors import UnknownWordsWarning

SCENES = 40


@pytest.fixture(scope="module")
def explainer():
    return Explainer.load(threads=2)


@pytest.fixture(scope="module")
def scenes():
    """Held-out scenes other than those of the model card."""
    return [roads.render(seed=roads.HELD_OUT_FROM + 700_000 + k) for k in range(SCENES)]


def test_the_bundle_fits_into_the_wheel():
    files = list(default_bundle().iterdir())
    assert {"manifest.json", "MODEL_CARD.md", "scores.json"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 22e6


def test_the_card_says_what_the_scores_say():
    scores = json.loads((default_bundle() / "scores.json").read_text("utf-8"))
    card = (default_bundle() / "MODEL_CARD.md").read_text("utf-8")
    assert scores["scenes"] >= 1000
    assert f"presence AUC **{np.nanmean(list(scores['auc'].values())):.3f}**" in card
    for way, rates in scores["pointing"].items():
        assert f"pointing, {way}: **{np.nanmean(list(rates.values())):.3f}**" in card


def test_it_tells_present_from_absent_as_the_card_says(explainer, scenes):
    texts = [roads.article(label) for label in roads.LABELS]
    got = explainer.explain([scene.image for scene in scenes], texts).similarities
    present = np.array([[any(o.label == label for o in s.objects) for label in roads.LABELS] for s in scenes])
    stated = json.loads((default_bundle() / "scores.json").read_text("utf-8"))["auc"]
    areas = []
    for k, label in enumerate(roads.LABELS):
        there, gone = got[present[:, k], k], got[~present[:, k], k]
        if len(there) >= 5 and len(gone) >= 5:
            areas.append((there[:, None] > gone[None]).mean() - stated[label])
    assert len(areas) >= 6
    assert np.mean(areas) == pytest.approx(0, abs=0.06)


def test_it_points_at_what_is_there_far_above_chance(explainer, scenes):
    hits, chance = [], []
    for scene in scenes:
        labels = list(dict.fromkeys(o.label for o in scene.objects))
        heat = explainer.explain(scene.image, [roads.article(label) for label in labels]).heatmap(0, "each")
        for k, label in enumerate(labels):
            mask = np.any([o.mask for o in scene.objects if o.label == label], axis=0)
            hits.append(mask.ravel()[heat[k].argmax()])
            chance.append(mask.mean())
    assert np.mean(hits) > 5 * np.mean(chance)


def test_an_absent_concept_does_not_glow_as_brightly(explainer, scenes):
    brightest = {True: [], False: []}
    for scene in scenes:
        labels = {o.label for o in scene.objects}
        heat = explainer.explain(scene.image, [roads.article(x) for x in roads.LABELS]).heatmap(0, "shared")
        for k, label in enumerate(roads.LABELS):
            brightest[label in labels].append(heat[k].max())
    assert np.mean(brightest[True]) > np.mean(brightest[False])


def test_a_word_it_never_saw_is_named(explainer):
    with pytest.warns(UnknownWordsWarning, match="xylophone"):
        explainer.encode_texts(["a xylophone"])


def test_the_demo_draws_its_pictures(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--out", str(tmp_path / "out")])
    assert not exit_.value.code
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"street.png", "texts.png", "targets.png", "street.npz"} <= names
    assert "street.png" in capsys.readouterr().out
