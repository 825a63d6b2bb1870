"""Deletion, Insertion, Degradation against loops that make and encode one image at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from eyeshine.errors import OptionError
from eyeshine.fills import blurred
from eyeshine.metrics import PRESETS, Degradation, Deletion, Insertion, Steps
from eyeshine.metrics.curves import auc
from eyeshine.metrics.steps import hottest_first
from eyeshine.metrics.truth import Truth, cases

TEXTS = ["a dog", "the red car"]


@pytest.fixture(scope="module", params=["tiny", "oblong"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def image(photo):
    return photo(5)


@pytest.fixture(scope="module")
def found(model, image):
    return list(cases(model, model.explain(image, TEXTS, method="chefer"), Truth(None, None, None), truncate=False))


def ranked(heat, seed):
    """Places from the hottest to the coldest, by sorting Python numbers; ties as the seed's permutation has them."""
    rank = {int(place): number for number, place in enumerate(np.random.default_rng(seed).permutation(heat.size))}
    flat = heat.ravel().tolist()
    return sorted(range(heat.size), key=lambda place: (-flat[place], rank[place]))


def slow_curve(model, pixels, order, counts, start, end, text, slow):
    scores = []
    for count in counts:
        canvas = start.copy()
        for place in order[:count]:
            y, x = divmod(place, pixels.shape[2])
            canvas[:, y, x] = end[:, y, x]
        scores.append(slow.cosine(model, canvas, text))
    return scores


def trapezoid(values):
    return sum((a + b) / 2 for a, b in pairwise(values)) / (len(values) - 1)


def constant(model, pixels, fill):
    colour = model.bundle.manifest.model.mean if fill == "mean" else (0, 0, 0)
    return np.broadcast_to(np.array(colour, np.float32)[:, None, None], pixels.shape)


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_deletion_is_a_loop_over_images(model, image, found, slow, fill):
    result = model.evaluate(
        image, TEXTS, method="chefer", metrics=Deletion(steps=Steps(fill=fill, points=6, seed=3)), max_batch=4
    )
    for p, case in enumerate(found):
        pixels, size = case.pixels, case.pixels[0].size
        counts = [round(size * k / 6) for k in range(7)]
        order = ranked(case.heat(), 3)
        expected = slow_curve(model, pixels, order, counts, pixels, constant(model, pixels, fill), TEXTS[p], slow)
        score = result.score("deletion", 0, p)
        assert [share for share, _ in score.curve] == pytest.approx([k / 6 for k in range(7)])
        assert [value for _, value in score.curve] == pytest.approx(expected, abs=1e-5)
        assert score.value == pytest.approx(trapezoid(expected), abs=1e-5)


def test_insertion_is_a_loop_over_images_and_ends_at_the_image(model, image, found, slow):
    metric = Insertion(steps=Steps(insert=True, fill="blur", points=5))
    result = model.evaluate(image, TEXTS, method="chefer", metrics=metric, max_batch=7)
    for p, case in enumerate(found):
        pixels, order = case.pixels, ranked(case.heat(), 0)
        counts = [round(pixels[0].size * k / 5) for k in range(6)]
        start = slow_blur(pixels, model.bundle.manifest.model.mean)
        expected = slow_curve(model, pixels, order, counts, start, pixels, TEXTS[p], slow)
        score = result.score("insertion", 0, p)
        assert [value for _, value in score.curve] == pytest.approx(expected, abs=1e-5)
        assert score.curve[-1][0] == 1
        assert score.value == pytest.approx(trapezoid(expected), abs=1e-5)
    assert result.encoded == 1 + 5 * len(TEXTS)  # the image itself once, and no complete canvas


def test_degradation_occludes_whole_patches(model, image, found, slow):
    result = model.evaluate(image, TEXTS, method="chefer", metrics="degradation")
    for p, case in enumerate(found):
        expected = []
        for share in (0, 0.05, 0.1, 0.15, 0.2, 0.25):
            canvas = case.pixels.copy()
            for place in ranked(case.map, 0)[: round(case.map.size * share)]:
                row, column = divmod(place, case.map.shape[1])
                patch = canvas[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                patch[:] = constant(model, patch, "mean")
            expected.append(slow.cosine(model, canvas, TEXTS[p]))
        score = result.score("degradation", 0, p)
        assert [value for _, value in score.curve] == pytest.approx(expected, abs=1e-5)
        assert score.value == pytest.approx(sum(expected[1:]) / 5, abs=1e-5)


def slow_blur(image, mean):
    """RISE's kernel, a Gaussian filter of a dirac in an 11 x 11 window that is mirrored at its edges; then the sums."""
    weights = [math.exp(-(d**2) / 50) for d in range(-20, 21)]
    weights = [w / sum(weights) for w in weights]
    line = [0.0] * 11
    for i in range(11):
        for d, weight in zip(range(-20, 21), weights, strict=True):
            place = i + d
            while not 0 <= place < 11:
                place = -1 - place if place < 0 else 21 - place
            line[i] += weight * (place == 5)
    kernel = [[a * b for b in line] for a in line]
    shifted = image.astype(np.float64) - np.reshape(mean, (3, 1, 1))
    result = np.zeros(shifted.shape)
    height, width = shifted.shape[1:]
    for dy in range(-5, 6):
        for dx in range(-5, 6):
            ys = slice(max(0, -dy), min(height, height - dy))
            xs = slice(max(0, -dx), min(width, width - dx))
            moved = shifted[:, ys.start + dy : ys.stop + dy, xs.start + dx : xs.stop + dx]
            result[:, ys, xs] += kernel[dy + 5][dx + 5] * moved
    return result + np.reshape(mean, (3, 1, 1))


def test_the_blur_is_that_of_rise():
    image = np.random.default_rng(0).random((3, 14, 19), dtype=np.float32)
    mean = np.array([0.2, 0.5, 0.8], np.float32)
    assert np.abs(blurred(image, mean) - slow_blur(image, mean)).max() <= 1e-6
    flat = np.broadcast_to(mean[:, None, None], image.shape)
    assert np.abs(blurred(flat, mean) - flat).max() <= 1e-6  # zeros beyond the edge are the mean colour


def test_the_area_is_that_of_trapezoids():
    scores = np.random.default_rng(1).random(9).tolist()
    assert auc(scores) == pytest.approx(trapezoid(scores), abs=1e-12)
    assert auc(scores) == pytest.approx(np.trapezoid(scores, np.linspace(0, 1, 9)), abs=1e-12)
    assert auc([0.25] * 4) == 0.25


def test_ties_come_in_an_order_of_the_seed_and_heat_in_its_own():
    heat = np.zeros((30, 40), np.float32)
    heat[20:25, 10:15] = np.random.default_rng(0).random((5, 5)) + 1
    first, again, other = (hottest_first(heat, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.array_equal(first[:25], other[:25])
    assert not np.array_equal(first[25:], other[25:])
    assert sorted(first.tolist()) == list(range(1200))
    assert (np.diff(heat.ravel()[first]) <= 0).all()
    # An order by place would take the upper rows of the tied ones first: their mean row would be far from the middle.
    rows = first[25 : 25 + 300] // 40
    assert abs(rows.mean() - 14.5) < 2


def test_where_ties_are_broken_by_place_the_map_does_not_matter(case_of):
    """A map that is zero but for one patch: half of the pixels are deleted all over the image, not from its top."""
    patch_map = np.zeros((6, 6))
    patch_map[5, 5] = 1
    case = case_of(patch_map)
    (frame,) = [f.copy() for f in Steps(points=1, until=0.5, fill="black").frames(case)]
    gone = (frame == 0).all(axis=0)
    assert gone[-4:, -4:].all()
    assert gone[:24].mean() == pytest.approx(gone[24:, :24].mean(), abs=0.1)


@pytest.mark.parametrize("insert", [False, True])
def test_a_native_canvas_is_prepared_anew_at_each_point(tiny, image, slow, insert):
    """Grad-ECLIP's protocol by hand: ten points, each ten steps of int(h w / 200) pixels, on the shrunk photo."""
    steps = Steps(insert, "black", 10, 0.5, canvas="native", shortest_px=50, substeps=10, origin=not insert)
    metric = Insertion(steps=steps) if insert else Deletion(steps=steps)
    found = tiny.explain(image, ["a dog"], method="chefer")
    (case,) = cases(tiny, found, Truth(None, None, None), truncate=False)
    small = np.asarray(Image.fromarray(image).resize((75, 50)))
    order = ranked(case.heat_on_photo((50, 75)), 0)
    canvases = []
    for point in range(1, 11):
        canvas = np.zeros_like(small) if insert else small.copy()
        for place in order[: 10 * point * int(50 * 75 / 200)]:
            y, x = divmod(place, 75)
            canvas[y, x] = small[y, x] if insert else 0
        canvases.append(slow.cosine(tiny, tiny.preprocess.prepare(canvas).pixels, "a dog"))
    clean = slow.cosine(tiny, tiny.preprocess.prepare(image).pixels, "a dog")
    expected = [*canvases, clean] if insert else [clean, *canvases]
    score = tiny.evaluate(image, ["a dog"], method="chefer", metrics=metric).score(metric.name)
    assert [value for _, value in score.curve] == pytest.approx(expected, abs=1e-5)
    assert score.value == pytest.approx(trapezoid(expected), abs=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_a_photo_of_fewer_pixels_than_steps_changes_all_the_same(case_of, size):
    """The model sees all of it, so that a point is black where the last pixel is deleted, and not before."""
    case = case_of(np.arange(12).reshape(3, 4), size=size)
    steps = Steps(fill="black", points=10, canvas="native", substeps=10)
    black = [not frame.any() for frame in steps.frames(case)]
    assert black == [round(k / 10 * size[0] * size[1]) == size[0] * size[1] for k in range(1, 11)]


def test_random_colours_are_the_seeds(case_of):
    case = case_of(np.arange(12).reshape(3, 4))
    frames = [[f.copy() for f in Steps(fill="random", points=2, seed=seed).frames(case)] for seed in (1, 1, 2)]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
    whole = frames[0][1]
    assert 0 <= whole.min() <= whole.max() < 1
    assert np.unique(whole).size > 100


def test_every_score_of_a_point(tiny, image):
    """prob, margin and rank from the embeddings of the same images, by hand."""
    labels = ["a cat", "a dog", "a tree", "the sky", "a house", "a red car"]
    steps = Steps(points=8)
    texts = tiny.encode_texts(labels).astype(np.float64)
    (case,) = cases(tiny, tiny.explain(image, ["a dog"]), Truth(None, None, None), truncate=False)
    logits = []
    for frame in (case.pixels, *(f.copy() for f in steps.frames(case))):
        run = tiny._session("encode").run({"pixels": frame[None]}, ["embedding"])
        logits.append(tiny.bundle.manifest.model.logit_scale * (texts @ run.outputs["embedding"][0]))
    expected = {
        "prob": [math.exp(row[1]) / sum(math.exp(v) for v in row) for row in logits],
        "margin": [row[1] - row[0] for row in logits],
        "top1": [float(sorted(row)[-1] == row[1]) for row in logits],
        "top5": [float(row[1] in sorted(row)[-5:]) for row in logits],
    }
    metrics = {score: Deletion(score, steps) for score in expected}
    result = tiny.evaluate(image, ["a dog"], metrics=metrics, labels=labels, negative="a cat")
    for score, values in expected.items():
        got = [value for _, value in result.score(score).curve]
        assert got == pytest.approx(values, abs=1e-3 if score == "margin" else 1e-4), score
    assert result.encoded == 9  # four metrics, one set of images


def test_rise_has_224_steps_of_equal_size(case_of):
    """At RISE's own 224 x 224 pixels a step is 224 of them."""
    preset = PRESETS["rise"]
    assert preset["deletion"].steps.fill == "mean"
    assert preset["insertion"].steps.fill == "blur"
    case = case_of(np.random.default_rng(0).random((28, 28)))
    before, changes = case.pixels.copy(), []
    for frame in Steps(fill="black").frames(case):
        changes.append(int((frame != before).any(axis=0).sum()))
        before = frame.copy()
    assert changes == [224] * 224


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Steps(points=0), "points"),
        (lambda: Steps(points=True), "points"),
        (lambda: Steps(until=0), "until"),
        (lambda: Steps(until=1.1), "until"),
        (lambda: Steps(fill="grey"), "fill"),
        (lambda: Steps(canvas="photo"), "canvas"),
        (lambda: Steps(seed=-1), "seed"),
        (lambda: Steps(substeps=-1), "substeps"),
        (lambda: Steps(by_patch=True, canvas="native"), "patches"),
        (lambda: Steps(shortest_px=0), "shortest_px"),
        (lambda: Deletion(steps=Steps(insert=True)), "other direction"),
        (lambda: Insertion(steps=Steps()), "other direction"),
        (lambda: Degradation("accuracy"), "score"),
    ],
)
def test_options_check_themselves(make, said):
    with pytest.raises(OptionError, match=said):
        make()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_a_stable_sort(seed):
    """Signs, zeros of both signs, ties, the smallest and the largest numbers."""
    rng = np.random.default_rng(seed)
    heat = rng.normal(size=(20, 30)).astype(np.float32)
    heat[heat < -0.5] = 0
    heat[:3] = -0.0
    heat[5:8] = np.round(heat[5:8])
    heat[9, :4] = 1e-45, -1e-45, 3e38, -3e38
    shuffled = np.random.default_rng(7).permutation(heat.size)
    expected = shuffled[np.argsort(-heat.ravel()[shuffled], kind="stable")]
    assert np.array_equal(hottest_first(heat, np.random.default_rng(7)), expected)
