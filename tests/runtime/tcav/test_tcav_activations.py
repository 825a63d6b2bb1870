"""Activations, their derivatives and what moving them does, against open_clip's own blocks and autograd."""

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.errors import InputError, OptionError, SignalError
from eyeshine.tcav import ConceptEvidence, ConceptMap, ConceptVector, TcavOptions, train_concept
from eyeshine.tcav.activations import Activations
from eyeshine.tcav.vector import fit
from oracle import relative

TEXTS = ["a red car", "the dog", "a tree"]
PLACES = [(1, "class"), (2, "patches"), (3, "class"), (1, "patches")]


@pytest.mark.parametrize(("blocks", "at"), PLACES)
def test_activations_slopes_and_moved_similarities_are_those_of_the_tower(explainer, tower, photos, blocks, at):
    images = photos(5)
    reader = Activations(explainer, blocks, at, max_batch=2)
    text = explainer.encode_texts(TEXTS)
    assert relative(reader.read(images), np.stack([tower.activation(x, blocks, at) for x in images])) <= 1e-4
    tokens = list(reader.tokens(images))
    assert [len(batch) for batch in tokens] == [2, 2, 1]
    found = [reader.slopes(batch, text) for batch in tokens]
    cosines, slopes = (np.concatenate(part) for part in zip(*found, strict=True))
    with torch.no_grad():
        expected = [tower.scores(tower.tokens(x, blocks), blocks)[0].numpy() for x in images]
    assert np.abs(cosines - np.stack(expected)).max() <= 1e-4
    assert relative(slopes, np.stack([tower.slope(x, blocks, at) for x in images])) <= 1e-4

    shifts = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    moved = reader.moved(tokens[0][0], shifts, text)
    with torch.no_grad():
        wanted = [tower.score_when_moved(images[0], torch.from_numpy(s).double(), blocks, at).numpy() for s in shifts]
    assert np.abs(moved - np.stack(wanted)).max() <= 1e-4
    assert np.abs(moved - cosines[0]).max() > 1e-2


def test_a_planted_direction_is_found():
    random = np.random.default_rng(0)
    planted = random.standard_normal(20)
    planted /= np.linalg.norm(planted)
    others = random.standard_normal((200, 20)).astype(np.float32)
    ours = (random.standard_normal((200, 20)) + 4 * planted).astype(np.float32)
    found = fit(ours, others, 0)
    assert found.direction @ planted > 0.8  # one of 20 dimensions; gradient descent on 268 rows is no exact solver
    assert np.linalg.norm(found.direction) == pytest.approx(1, abs=1e-6)
    assert found.accuracy > 0.95
    sides = np.concatenate([ours @ found.direction + found.offset > 0, others @ found.direction + found.offset < 0])
    assert sides.mean() > 0.95
    assert 0.3 < fit(others[:100], others[100:], 0).accuracy < 0.7


def test_a_concept_is_learned_from_images(explainer, tower, photos):
    red, plain = photos(30, seed=1, tint=55), photos(30, seed=2)
    found = train_concept(explainer, "red", red, plain, TcavOptions(blocks=2, at="patches"))
    assert (found.name, found.blocks, found.at, found.bundle) == ("red", 2, "patches", "tiny")
    assert found.accuracy > 0.9
    places = np.array([tower.activation(x, 2, "patches") for x in red + plain]) @ found.direction
    assert places[:30].mean() > places[30:].mean()
    assert found.spread == pytest.approx(places.std(), rel=1e-4)


@pytest.fixture(scope="module")
def red(explainer, photos):
    return train_concept(explainer, "red", photos(9, 1, 55), photos(9, 2), TcavOptions(blocks=2, at="patches"))


def test_the_map_is_the_place_of_every_patch_along_the_concept(explainer, tower, photos, red):
    images = photos(2, seed=3)
    found = explainer.explain(images, TEXTS, method=ConceptMap(red))
    for image, maps in zip(images, found.maps, strict=True):
        patches = tower.tokens(image, 2)[0, 1:].numpy()
        expected = [sum(a * b for a, b in zip(patch, red.direction, strict=True)) + red.offset for patch in patches]
        assert relative(maps[0].reshape(-1), np.array(expected)) <= 1e-4
        assert (maps == maps[0]).all()
    assert np.abs(found.maps[0] - found.maps[1]).max() > 1e-2
    with pytest.raises(OptionError, match="does not depend on the text"):
        explainer.explain(images[0], TEXTS, method=ConceptMap(red), against="rest")


def test_evidence_is_the_place_times_the_slope_by_autograd(explainer, tower, photos, red):
    images = photos(2, seed=4)
    found = explainer.explain(images, TEXTS, method=ConceptEvidence(red)).maps
    places = explainer.explain(images, TEXTS, method=ConceptMap(red)).maps
    for index, image in enumerate(images):
        tokens = tower.tokens(image, 2).requires_grad_()
        for prompt, score in enumerate(tower.scores(tokens, 2)[0]):
            slope = torch.autograd.grad(score, tokens, retain_graph=True)[0][0, 1:].numpy() @ red.direction
            assert relative(found[index, prompt].reshape(-1), places[index, prompt].reshape(-1) * slope) <= 1e-4
    assert np.abs(found[0] - found[1]).max() > 1e-5
    against = explainer.explain(images, TEXTS[:1], method=ConceptEvidence(red), against=TEXTS[1:2]).maps
    assert relative(against[:, 0], found[:, 0] - found[:, 1]) <= 1e-4


def test_what_cannot_be_used_is_refused(explainer, photos, red, tmp_path):
    with pytest.raises(InputError, match=r"too few images of the concept.*2 images.*3 or more"):
        train_concept(explainer, "x", photos(2), photos(5))
    with pytest.raises(InputError, match="ndarray"):
        train_concept(explainer, "x", photos(5), photos(5)[0])
    with pytest.raises(OptionError, match="needs a name"):
        train_concept(explainer, " ", photos(5), photos(5))
    with pytest.raises(InputError, match="do not differ"):
        fit(np.zeros((5, 4), np.float32), np.zeros((5, 4), np.float32), 0)
    other = ConceptVector("x", red.direction, 0, 1, 1, 2, "patches", "another")
    with pytest.raises(OptionError, match=r"another model.*tiny"):
        other.activations(explainer)
    narrow = ConceptVector("x", red.direction[:5], 0, 1, 1, 2, "patches", "tiny")
    with pytest.raises(OptionError, match=r"another model.*32.*5"):
        explainer.explain(photos(1), TEXTS, method=ConceptMap(narrow))
    from eyeshine_export.write import export_bundle
    from tiny import tiny_source

    export_bundle(tiny_source(), tmp_path / "plain")
    with pytest.raises(SignalError, match=r"no graph 'hidden'.*--signals"):
        train_concept(Explainer.load(tmp_path / "plain", threads=1), "x", photos(5), photos(5))


@pytest.mark.parametrize("settings", [{"blocks": 0}, {"at": "all"}, {"counterparts": 1}, {"level": 1}, {"tests": 0}])
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(OptionError, match="at|activations" if "at" in settings else next(iter(settings))):
        TcavOptions(**settings)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(OptionError, match=r"eyeshine\[concepts\]"):
        fit(np.eye(4, dtype=np.float32), -np.eye(4, dtype=np.float32), 0)
