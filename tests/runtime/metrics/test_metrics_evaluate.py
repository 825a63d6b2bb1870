"""Evaluations as a whole: shared batches, results, what is refused, and the adaptor for Quantus."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest

from eyeshine.errors import EngineError, OptionError, TextError
from eyeshine.metrics import METRICS, PRESETS, ConceptDrop, Deletion, Insertion, Steps, a_batch, evaluate

TEXTS = ["a dog", "a cat", "the red car"]
SHORT = {"deletion": Deletion(steps=Steps(points=9)), "insertion": Insertion(steps=Steps(insert=True, points=9))}


@pytest.fixture(scope="module")
def images(photo):
    return [photo(1), photo(2, 40, 40)]


@pytest.fixture
def runs(tiny, monkeypatch):
    """Sizes of the batches that the graph is given."""
    session, sizes = tiny._session("encode"), []
    original = session.run

    def run(inputs, outputs):
        sizes.append(len(inputs["pixels"]))
        return original(inputs, outputs)

    monkeypatch.setattr(session, "run", run)
    return sizes


@pytest.mark.parametrize("max_batch", [1, 5, 32, 1000])
def test_all_masked_images_of_a_request_share_batches(tiny, images, runs, max_batch):
    """Metrics, texts and images together; the image itself once per image, and what metrics have in common once."""
    metrics = {**SHORT, "drop": ConceptDrop(), "kept": METRICS["confidence_drop"], "up": METRICS["confidence_increase"]}
    found = tiny.explain(images, TEXTS)
    runs.clear()
    result = evaluate(tiny, found, metrics=metrics, max_batch=max_batch)
    count = 2 * 1 + 2 * 3 * (9 + 9 + 1 + 1)
    assert result.encoded == count == sum(runs)
    assert max(runs) == min(max_batch, count)
    assert len(runs) == -(-count // max_batch)


def test_a_batch_size_changes_nothing_but_rounding(tiny, images):
    found = tiny.explain(images, TEXTS)
    one, many = (evaluate(tiny, found, metrics=SHORT, max_batch=size) for size in (1, 16))
    for name in SHORT:
        assert one.values(name).shape == (2, 3)
        assert np.allclose(one.values(name), many.values(name), atol=1e-6)


def test_several_images_are_each_by_itself(tiny, images):
    together = tiny.evaluate(images, TEXTS, metrics=["concept_drop", "degradation"])
    for index, image in enumerate(images):
        alone = tiny.evaluate(image, TEXTS, metrics=["concept_drop", "degradation"])
        for name in together.metrics:
            assert np.allclose(together.values(name)[index], alone.values(name)[0], atol=1e-5)


def test_one_batch_is_held_at_a_time(tiny, images, runs, monkeypatch):
    """Every image is encoded before the next batch is begun: the made and not yet encoded are never more than one."""
    made, most = [0], [0]
    original = Steps.frames

    def frames(self, case):
        for frame in original(self, case):
            made[0] += 1
            most[0] = max(most[0], made[0] - sum(runs))
            yield frame

    monkeypatch.setattr(Steps, "frames", frames)
    found = tiny.explain(images, TEXTS)
    runs.clear()
    evaluate(tiny, found, metrics={"d": Deletion(steps=Steps(points=50))}, max_batch=8)
    assert made[0] == 300
    assert most[0] <= 8


def test_engines_of_fixed_sizes_get_them(tiny, images, runs):
    """An engine that runs batches of 6 alone: the last one is padded, and its padding is not read."""

    class Fixed:
        def nearest(self, axis, size):
            assert axis == "B"
            return 6

        def metadata(self):
            return {}

    found = tiny.explain(images, TEXTS)
    expected = evaluate(tiny, found, metrics=SHORT)
    runs.clear()
    options, tiny.options = tiny.options, Fixed()
    try:
        got = evaluate(tiny, found, metrics=SHORT, max_batch=32)
    finally:
        tiny.options = options
    assert set(runs) == {6}
    assert got.batch == 6
    assert got.encoded == expected.encoded
    for name in SHORT:
        assert np.allclose(got.values(name), expected.values(name), atol=1e-6)


def test_an_embedding_that_is_not_finite_is_refused(tiny, images, monkeypatch):
    found = tiny.explain(images[0], TEXTS)
    session = tiny._session("encode")
    original = session.run

    def run(inputs, outputs):
        result = original(inputs, outputs)
        result.outputs["embedding"][-1, 0] = np.nan
        return result

    monkeypatch.setattr(session, "run", run)
    with pytest.raises(EngineError, match="not finite"):
        evaluate(tiny, found)


def test_a_map_that_metrics_adjusted_is_not_scored_by_them(tiny, images):
    found = tiny.explain(images[0], TEXTS)
    object.__setattr__(found, "adjusted", True)
    with pytest.raises(OptionError, match="adjusted by metrics"):
        evaluate(tiny, found)
    object.__setattr__(found, "adjusted", False)
    assert evaluate(tiny, found, metrics="concept_drop").values("concept_drop").shape == (1, 3)


def test_by_default_every_metric_but_curves_that_can_be_computed(tiny, images):
    plain = {"concept_drop", "confidence_drop", "confidence_increase"}
    places = {"pointing_game", "energy_pointing_game", "multi_object_hit_rate", "pixel_ap", "pixel_iou", "segmentation"}
    mask = np.ones(images[0].shape[:2], bool)
    assert set(tiny.evaluate(images[0], TEXTS).metrics) == plain
    assert set(tiny.evaluate(images[0], TEXTS, negative="the sky").metrics) == {*plain, "negative_suppression"}
    assert set(tiny.evaluate(images[0], TEXTS, masks=mask).metrics) == plain | places


def test_a_contrast_that_was_chosen_for_the_image_is_its_negative_text(tiny, images):
    """A word of each image's own, unless the caller names another."""
    from eyeshine.concept import ContrastOptions

    options = ContrastOptions(candidates=["a tree", "the sky", "a house", "a big car"], top=2)
    found = tiny.explain(images, ["a dog", "a cat"], against=options)
    chosen = [[choice.chosen for choice in row] for row in found.details["contrast"]]
    result = evaluate(tiny, found, metrics="negative_suppression")
    assert [list(row) for row in result.negatives] == chosen
    for b, p in ((0, 0), (0, 1), (1, 0), (1, 1)):
        alone = evaluate(tiny, found, metrics="negative_suppression", negative=chosen[b][p])
        assert result.score("negative_suppression", b, p) == alone.score("negative_suppression", b, p)
        assert result.to_dict(b)["scores"][p]["negative"] == chosen[b][p]


def test_every_metric_says_what_it_is():
    for metric in [*METRICS.values(), *(metric for preset in PRESETS.values() for metric in preset.values())]:
        assert METRICS[metric.name].name == metric.name
        assert metric.direction in ("higher", "lower")
        assert metric.unit
        assert metric.reference
        assert metric.needs <= {"contrast", "labels", "mask"}
        assert hash(metric) == hash(replace(metric))


def test_presets_give_their_metrics(tiny, images):
    labels = [*TEXTS, "a tree"]
    result = tiny.evaluate(images[0], ["a dog"], metrics=["gradeclip-imagenet", "m2ib-fixed"], labels=labels)
    best = {f"{kind}@{k}" for kind in ("deletion", "insertion") for k in (1, 5, 10)}
    assert set(result.metrics) == best | {"confidence_drop", "confidence_increase"}
    assert [share for share, _ in result.score("deletion@1").curve] == pytest.approx(np.linspace(0, 0.5, 11))
    assert [share for share, _ in result.score("insertion@1").curve] == pytest.approx([*np.linspace(0.05, 0.5, 10), 1])
    assert result.score("deletion@5").value == 1  # four labels: always among the best five
    assert result.encoded == 1 + 10 + 10 + 1


def test_what_results_say(tiny, images):
    result = tiny.evaluate(
        images, TEXTS, metrics=["degradation", "concept_drop", "negative_suppression"], negative="sky"
    )
    record = json.loads(json.dumps(result.to_dict(1), allow_nan=False))
    assert [row["text"] for row in record["scores"]] == TEXTS
    entry = record["scores"][2]["metrics"]
    assert list(entry) == ["degradation", "concept_drop", "negative_suppression"]
    assert entry["degradation"]["direction"] == "lower"
    assert len(entry["degradation"]["curve"]) == 6
    assert entry["degradation"]["value"] == result.values("degradation")[1, 2]
    assert entry["negative_suppression"]["band"] in ("distinguishes", "partly", "fails")
    assert record["options"]["degradation"]["steps"]["until"] == 0.25
    assert record["engine"]["provider"] == "CPUExecutionProvider"
    assert "curve" not in result.to_dict(1, curves=False)["scores"][0]["metrics"]["degradation"]
    assert result.mean("concept_drop") == pytest.approx(result.values("concept_drop").mean())
    with pytest.raises(OptionError, match="was not evaluated"):
        result.values("deletion")
    with pytest.raises(OptionError, match="no such prompt"):
        result.score("degradation", 0, 3)


def test_undefined_values_are_none_in_json_and_said_in_the_table(tiny, images):
    from rich.console import Console

    result = tiny.evaluate(images[0], ["a red car"], masks=np.zeros(images[0].shape[:2], bool))
    record = result.to_dict()
    assert record["scores"][0]["metrics"]["pixel_ap"]["value"] is None
    assert np.isnan(result.values("pixel_ap")).all()
    assert result.mean("pixel_ap") is None
    console = Console(width=120, record=True, file=StringIO())
    console.print(replace(result, texts=("a [red] car",)).table())
    text = console.export_text()
    assert "a [red] car" in text
    note = next(line for line in text.splitlines() if "no pixel of the mask" in line)
    assert f"undefined {note.split()[0]}" in text


def test_masks_of_several_images_and_texts(tiny, images):
    """Each image and text gets its own; the values are those of single calls."""
    rng = np.random.default_rng(0)
    masks = [[rng.random((2, *image.shape[:2])) < 0.5 for _ in TEXTS] for image in images]
    masks[1][2] = masks[1][2][0]
    together = tiny.evaluate(images, TEXTS, metrics=["pixel_ap"], masks=masks).values("pixel_ap")
    for b, image in enumerate(images):
        for p, text in enumerate(TEXTS):
            alone = tiny.evaluate(image, [text], metrics=["pixel_ap"], masks=masks[b][p]).values("pixel_ap")
            assert together[b, p] == pytest.approx(alone[0, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"metrics": "magic"}, OptionError, "unknown metric.*concept_drop.*rise"),
        ({"metrics": []}, OptionError, "no metric"),
        ({"metrics": [3]}, OptionError, "not a metric"),
        ({"metrics": [ConceptDrop]}, OptionError, "not a metric"),
        ({"metrics": ["deletion", Deletion("prob")], "labels": TEXTS}, OptionError, "two metrics of one name"),
        ({"metrics": "negative_suppression"}, OptionError, "needs a negative text"),
        ({"metrics": "rise"}, OptionError, "needs a label set"),
        ({"metrics": "pixel_ap"}, OptionError, "needs masks"),
        ({"negative": "a dog"}, OptionError, "its own negative"),
        ({"negative": ["a tree", "the sky"]}, OptionError, "one for each"),
        ({"negative": " "}, TextError, "negative text 0 is blank"),
        ({"labels": []}, TextError, "no text"),
        ({"labels": "a dog"}, TextError, "list"),
        ({"max_batch": 0}, OptionError, "max_batch"),
        ({"max_batch": True}, OptionError, "max_batch"),
        ({"masks": np.ones((60, 90))}, OptionError, "bool"),
        ({"masks": np.ones((90, 60), bool)}, OptionError, "60, 90"),
        ({"masks": [np.ones((60, 90), bool)]}, OptionError, "1 masks"),
        ({"masks": "mask.png"}, OptionError, "one mask"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_words(tiny, photo, options, error, said):
    with pytest.raises(error, match=said):
        tiny.evaluate(photo(1), TEXTS, **options)


def test_an_explanation_of_another_model_or_another_preparation_is_refused(tiny, oblong, tiny_bundle, photo):
    from eyeshine import Explainer

    found = tiny.explain(photo(1), TEXTS)
    with pytest.raises(OptionError, match="another bundle"):
        evaluate(oblong, found)
    with pytest.raises(OptionError, match="not an explanation"):
        evaluate(tiny, found.maps)
    squash = Explainer.load(tiny_bundle, threads=1, resize="squash")
    with pytest.raises(OptionError, match="prepared in another way"):
        evaluate(squash, found)


def test_a_batch_is_the_map_at_the_size_of_the_models_input(oblong, photo):
    """31 x 40 pixels, three by five patches of 8: constant near the corners, zero where no patch lies."""
    found = oblong.explain([photo(1), photo(2)], TEXTS, method="chefer")
    got = a_batch(oblong, found, [2, 0])
    assert got.shape == (2, 1, 31, 40)
    assert got.dtype == np.float32
    assert (got[:, :, 24:] == 0).all()
    for b, p in enumerate([2, 0]):
        assert got[b, 0, 0, 0] == pytest.approx(found.maps[b, p, 0, 0], rel=1e-6)
        # Between the centres of four patches it is their mean.
        between = got[b, 0, 7:9, 15:17].mean()
        assert between == pytest.approx(found.maps[b, p, :2, 1:3].mean(), rel=1e-5)
    assert np.array_equal(a_batch(oblong, found, 1), a_batch(oblong, found, [1, 1]))
    with pytest.raises(OptionError, match="no such prompt"):
        a_batch(oblong, found, 3)
    with pytest.raises(OptionError, match="one for each"):
        a_batch(oblong, found, [0])


def test_on_the_embedded_model_concepts_drop_and_hot_pixels_count(photo):
    """Roads, a scene of its own world: deleting hot pixels first costs more than deleting cold ones first."""
    from eyeshine import Explainer, roads

    explainer = Explainer.load(threads=1)
    scenes = [roads.render(seed=1_000_500_000 + n) for n in range(3)]
    for scene in scenes:
        text = roads.article(scene.objects[-1].label)
        found = explainer.explain(
            scene.image, [text], against=[roads.article(x) for x in roads.LABELS if x not in text]
        )
        steps = {"deletion": Deletion(steps=Steps(points=10))}
        hot = evaluate(explainer, found, metrics=steps).values("deletion")[0, 0]
        cold = evaluate(explainer, replace(found, maps=-found.maps), metrics=steps).values("deletion")[0, 0]
        assert hot < cold
