"""Shipping a training run: scores by the runtime, and the card that states them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eyeshine import Explainer, roads
from eyeshine_export.roads.config import Shape, build, make_tokenizer
from eyeshine_export.roads.ship import FIRST, Scores, score, ship


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """An untrained small model, shipped and scored on a few scenes."""
    import torch
    from safetensors.torch import save_file

    run = tmp_path_factory.mktemp("run")
    shape = Shape(width=64, layers=2, text_width=32, text_layers=1, text_heads=2, embed=16, patch=16)
    torch.manual_seed(0)
    save_file(
        {k: v.contiguous() for k, v in build(shape.configuration()).state_dict().items()}, run / "model.safetensors"
    )
    (run / "config.json").write_text(json.dumps(shape.configuration()), "utf-8")
    make_tokenizer(shape.context).save(str(run / "tokenizer.json"))
    out = run / "bundle"
    return out, ship(run, out, scenes=12, notes="Not trained at all.")


def test_presence_and_pointing_are_those_of_a_slow_loop(shipped):
    bundle, scores = shipped
    explainer = Explainer.load(bundle)
    texts = [roads.article(label) for label in roads.LABELS]
    cosines, present, hits = [], [], {label: [] for label in roads.LABELS}
    for k in range(12):
        scene = roads.render(seed=FIRST + k)
        result = explainer.explain(scene.image, texts, method="chefer", against="rest")
        heat = result.heatmap(0, "each")
        cosines.append(result.similarities[0])
        present.append([any(o.label == label for o in scene.objects) for label in roads.LABELS])
        for n, label in enumerate(roads.LABELS):
            masks = [o.mask for o in scene.objects if o.label == label]
            if masks:
                y, x = np.unravel_index(heat[n].argmax(), heat[n].shape)
                hits[label].append(float(any(mask[y, x] for mask in masks) and heat[n].max() > 0))
    for n, label in enumerate(roads.LABELS):
        there = [c[n] for c, p in zip(cosines, present, strict=True) if p[n]]
        gone = [c[n] for c, p in zip(cosines, present, strict=True) if not p[n]]
        if there and gone:
            wins = [float(a > b) + 0.5 * float(a == b) for a in there for b in gone]
            assert scores.auc[label] == pytest.approx(np.mean(wins), abs=0.02)
        if hits[label]:
            assert scores.pointing["chefer, rather than the rest"][label] == pytest.approx(np.mean(hits[label]))


def test_the_card_and_the_scores_are_part_of_the_bundle(shipped):
    bundle, scores = shipped
    opened = Explainer.load(bundle).bundle
    assert {"MODEL_CARD.md", "scores.json"} <= opened.manifest.files.keys()
    card = (bundle / "MODEL_CARD.md").read_text("utf-8")
    assert "Not trained at all." in card
    assert f"{Scores.mean(scores.auc):.3f}" in card
    assert opened.manifest.model.licence == "Apache-2.0"
    assert opened.manifest.model.name == "roads"


def test_scoring_needs_no_training_seed(shipped, monkeypatch):
    seeds = []
    original = roads.render
    monkeypatch.setattr(roads, "render", lambda **options: seeds.append(options["seed"]) or original(**options))
    score(shipped[0], 3)
    assert seeds
    assert min(seeds) >= roads.HELD_OUT_FROM
