"""TCAV's scores and tests against loops, SciPy's own test, and Student's density; and what roads knows."""

import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from eyeshine import roads as world
from eyeshine.errors import InputError
from eyeshine.tcav import AuditOptions, TcavOptions, audit, tcav, train_concept
from eyeshine.tcav.significance import same_mean

TEXTS = ["a red car", "the dog", "a tree"]


def slow_direction(ours, others, seed):
    """The classifier, once more and by hand."""
    rows, labels = np.concatenate([ours, others]), np.array([1] * len(ours) + [0] * len(others))
    learn, held, one, other = train_test_split(rows, labels, test_size=0.33, stratify=labels, random_state=seed)
    model = SGDClassifier(loss="hinge", alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed).fit(learn, one)
    return model.coef_[0], np.mean(model.predict(held) == other)


@pytest.mark.filterwarnings("ignore:Precision loss")  # SciPy says so of equal accuracies
@pytest.mark.parametrize("at", ["class", "patches"])
def test_scores_are_shares_of_examples_whose_similarity_rises(explainer, tower, photos, at):
    options = TcavOptions(blocks=2, at=at, counterparts=4, seed=3)
    ours, pool, examples = photos(6, 1, 55), photos(14, 2), photos(7, 3)
    found = tcav(explainer, "red", ours, pool, examples, TEXTS, options)

    concept = np.float32([tower.activation(x, 2, at) for x in ours])
    random = np.float32([tower.activation(x, 2, at) for x in pool])
    slopes = [tower.slope(x, 2, at) for x in examples]
    draw = np.random.default_rng(3)
    for run in range(4):
        order = draw.permutation(14)
        one, other = random[order[:6]], random[order[6:12]]
        shown = concept[draw.permutation(6)]
        for scores, accuracies, left in (
            (found.scores, found.accuracies, shown),
            (found.random_scores, found.random_accuracies, one),
        ):
            direction, accuracy = slow_direction(left, other, 3 + run)
            rises = np.mean([[float(slope @ direction) > 0 for slope in example] for example in slopes], axis=0)
            assert scores[run] == pytest.approx(rises, abs=1 / 7 + 1e-9)  # a slope of zero may round to either side
            assert np.mean(scores[run] == pytest.approx(rises)) >= 2 / 3
            assert accuracies[run] == pytest.approx(accuracy)
    assert found.threshold == pytest.approx(0.05 / 3)
    higher = stats.ttest_ind(found.accuracies, found.random_accuracies, alternative="greater").pvalue < 0.025
    assert found.learned == higher
    assert (found.significant == ((found.p_values < found.threshold) & higher)).all()
    row = found.record()["prompts"][1]
    assert row["score"] == pytest.approx(np.mean(found.scores[:, 1]), abs=1e-6)
    assert row["score_deviation"] == pytest.approx(stats.tstd(found.scores[:, 1]), abs=1e-6)


def test_p_values_are_scipys_and_students():
    random = np.random.default_rng(0)
    one, other = random.random((7, 5)), random.random((9, 5)) + np.linspace(0, 0.8, 5)
    found = same_mean(one, other)
    assert found == pytest.approx(stats.ttest_ind(one, other).pvalue, rel=1e-9)
    for column in range(5):
        a, b = one[:, column], other[:, column]
        pooled = (sum((a - a.mean()) ** 2) + sum((b - b.mean()) ** 2)) / 14
        t = abs(a.mean() - b.mean()) / math.sqrt(pooled * (1 / 7 + 1 / 9))
        scale = math.gamma(7.5) / (math.sqrt(14 * math.pi) * math.gamma(7))
        tail = integrate.quad(lambda x, scale=scale: scale * (1 + x * x / 14) ** -7.5, t, np.inf)[0]
        assert found[column] == pytest.approx(2 * tail, rel=1e-6)
    assert found[0] > 0.05 > found[4]


def test_constant_samples_have_p_values_too():
    ones, halves, varied = np.ones((5, 1)), np.full((5, 1), 0.5), np.linspace(0, 1, 5)[:, None]
    assert same_mean(ones, ones) == 1
    assert same_mean(ones, halves) == 0
    assert 0 < same_mean(ones, varied) < 0.05 < same_mean(halves, varied) == pytest.approx(1)


def test_too_few_images_are_refused(explainer, photos):
    for counts, what in (((2, 9, 3), "of the concept"), ((3, 5, 3), "random images"), ((3, 9, 0), "examples")):
        with pytest.raises(InputError, match=what):
            tcav(explainer, "x", *(photos(count) for count in counts), TEXTS)


PROMPTS = ["a road at night", "a road in the rain"]
OPTIONS = TcavOptions(at="patches", counterparts=10)


@pytest.fixture(scope="module")
def scenes():
    """Pictures by night, of rain by day, and of clear days."""
    drawn = [world.render(seed=seed, size=112) for seed in range(130)]
    kinds = {"night": [], "rain": [], "other": []}
    for scene in drawn:
        kind = "night" if scene.light == "night" else "rain" if scene.weather == "rain" else "other"
        kinds[kind].append(scene.image)
    return kinds


@pytest.mark.parametrize(("concept", "prompt"), [("night", 0), ("rain", 1)])
def test_roads_knows_night_and_rain(roads, scenes, concept, prompt):
    """A concept that the model was trained on is learned, its own prompt rises along it, and that is no chance."""
    positives, others = scenes[concept][:16], scenes["other"]
    found = tcav(roads, concept, positives, others[:40], others[40:56], PROMPTS, OPTIONS)
    assert found.accuracies.mean() > 0.8
    assert 0.3 < found.random_accuracies.mean() < 0.7
    assert found.scores[:, prompt].mean() > 0.95
    assert found.learned
    assert found.significant[prompt]


def test_a_concept_of_random_images_is_none(roads, scenes):
    others = scenes["other"]
    found = tcav(roads, "nothing", others[40:56], others[:40], others[56:70], PROMPTS, OPTIONS)
    assert 0.3 < found.accuracies.mean() < 0.7
    assert not found.learned
    assert not found.significant.any()


def test_an_audit_of_roads_tells_the_prompt_that_depends_on_the_concept(roads, scenes):
    night, day = scenes["night"], scenes["other"]
    concept = train_concept(roads, "night", night[:16], day[:16], OPTIONS)
    options = AuditOptions(directions=39)
    found = audit(roads, concept, day[-4:] + night[-4:], ["a road at night", "a dog"], options)
    assert found.outside[0]
    assert found.shifts[:, 0].min() > 0
    assert found.shifts[:, 0].mean() > 5 * abs(found.shifts[:, 1].mean())
