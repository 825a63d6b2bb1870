"""The audit against loops over images and directions on open_clip's own blocks."""

import numpy as np
import pytest
import torch

from eyeshine.errors import InputError, OptionError
from eyeshine.tcav import AuditOptions, ConceptVector, audit

TEXTS = ["a red car", "the dog", "a tree"]


def concept_of(direction, blocks, at, spread=1.5):
    unit = np.float32(direction / np.linalg.norm(direction))
    return ConceptVector("planted", unit, 0.0, spread, 1.0, blocks, at, "tiny")


@pytest.mark.parametrize(("blocks", "at"), [(1, "class"), (2, "patches")])
def test_shifts_are_those_of_the_tower_and_predictions_those_of_autograd(explainer, tower, photos, blocks, at):
    concept = concept_of(np.random.default_rng(5).standard_normal(32), blocks, at)
    images = photos(4)
    found = audit(explainer, concept, images, TEXTS, AuditOptions(step=0.5, directions=19), max_batch=7)
    step = torch.from_numpy(0.5 * 1.5 * concept.direction).double()
    for index, image in enumerate(images):
        with torch.no_grad():
            towards, away = (tower.score_when_moved(image, sign * step, blocks, at).numpy() for sign in (1, -1))
            plain = tower.scores(tower.tokens(image, blocks), blocks)[0].numpy()
        assert found.shifts[index] == pytest.approx(towards - away, abs=1e-5)
        assert found.similarities[index] == pytest.approx(plain, abs=1e-5)
        assert found.predicted[index] == pytest.approx(2 * tower.slope(image, blocks, at) @ step.numpy(), abs=1e-5)
    assert np.abs(found.shifts).max() > 1e-2


@pytest.mark.parametrize("among", ["activations", "sphere"])
def test_random_directions_are_moved_along_as_far(explainer, tower, photos, among):
    concept = concept_of(np.random.default_rng(6).standard_normal(32), 1, "class")
    images = photos(5)
    found = audit(explainer, concept, images, TEXTS, AuditOptions(directions=19, among=among, seed=2, level=0.2))
    draw = np.random.default_rng(2)
    if among == "sphere":
        directions = draw.standard_normal((19, 32))
    else:
        rows = np.array([tower.activation(image, 1, "class") for image in images])
        directions = np.array([sum(z * (row - rows.mean(0)) for z, row in zip(mix, rows, strict=True))
                               for mix in draw.standard_normal((19, 5))])  # fmt: skip
    for index, direction in enumerate(directions):
        step = torch.from_numpy(1.5 * direction / np.linalg.norm(direction))
        with torch.no_grad():
            moved = [
                tower.score_when_moved(image, step, 1, "class") - tower.score_when_moved(image, -step, 1, "class")
                for image in images
            ]
        assert found.random_shifts[index] == pytest.approx(torch.stack(moved).mean(0).numpy(), abs=1e-5)
    for prompt in range(3):
        random, mean = found.random_shifts[:, prompt], found.shifts[:, prompt].mean()
        as_far = 1 + sum(abs(value) >= abs(mean) for value in random)
        assert found.p_values[prompt] == pytest.approx(as_far / 20)
        low, high = found.interval[:, prompt]
        assert sum(low <= value <= high for value in random) == 15  # of 19, four fifths and the ends' halves
        assert found.outside[prompt] == (not low <= mean <= high)


def test_a_direction_that_is_the_gradient_lies_outside(explainer, tower, photos):
    """What moves the prompt most is not taken for chance, and a direction that the text does not see is."""
    images = photos(6)
    slope = np.mean([tower.slope(image, 1, "class")[0] for image in images], axis=0)
    blind = np.linalg.svd(np.stack([tower.slope(image, 1, "class")[0] for image in images]))[2][-1]
    options = AuditOptions(step=0.2, directions=39)
    seen, unseen = (audit(explainer, concept_of(v, 1, "class"), images, TEXTS[:1], options) for v in (slope, blind))
    assert seen.outside[0]
    assert seen.p_values[0] == 1 / 40
    assert seen.shifts[:, 0].mean() > 0
    assert not unseen.outside[0]
    assert seen.record()["prompts"][0]["outside"] is True


def test_what_cannot_be_audited_is_refused(explainer, photos):
    concept = concept_of(np.ones(32), 1, "class")
    with pytest.raises(InputError, match="2 images"):
        audit(explainer, concept, photos(2), TEXTS)
    with pytest.raises(OptionError, match="do not vary"):
        audit(explainer, concept, photos(1) * 3, TEXTS)
    for settings in ({"step": 0}, {"directions": 5}, {"among": "all"}, {"level": 0}, {"seed": -1}):
        with pytest.raises(OptionError, match="directions" if "among" in settings else next(iter(settings))):
            AuditOptions(**settings)
