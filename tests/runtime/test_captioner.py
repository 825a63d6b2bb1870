"""The embedded captioner: its files, answers, explanations and interventions."""

import json
import shutil
import threading

import numpy as np
import pytest

from eyeshine import Bundle, roads
from eyeshine.captioner import Captioner, MapOptions
from eyeshine.captioner.bundle import GRAPHS, CaptionerFiles, default_captioner
from eyeshine.captioner.features import tower_graph
from eyeshine.engine import CpuOptions, open_session
from eyeshine.errors import BundleError, ImageError, OptionError, TextError, UnknownWordsWarning
from eyeshine.verify import TOLERANCES, output_error

SEED = roads.HELD_OUT_FROM + 900_000  # nothing was chosen by looking at these scenes
DESCRIBE = "describe this image"


@pytest.fixture(scope="module")
def captioner():
    return Captioner.load(threads=1)


@pytest.fixture(scope="module")
def scene():
    return roads.render(seed=SEED)


@pytest.fixture(scope="module")
def seen(captioner, scene):
    return captioner.see(scene.image)


def labels_in(text):
    return {label for label in roads.LABELS if f" {label} " in f" {text.replace(',', ' ')} "}


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_yields_its_golden_values(graph):
    files = CaptionerFiles.open()
    golden, session = files.golden(), files.session(graph, CpuOptions(threads=1))
    given = {**{f"in/{k}": golden[f"memory/{k}"] for k in ("keys", "values")}, "in/features": golden["tower/features"]}
    inputs = {name: {**golden, **given}[f"in/{name}"] for name in session.input_dims}
    outputs = session.run(inputs, list(session.output_dims)).outputs
    errors = {name: output_error(name, value, golden[f"{graph}/{name}"]) for name, value in outputs.items()}
    assert len(errors) == {"memory": 2, "decode": 1, "explain": 6}[graph]
    assert {name: error for name, error in errors.items() if not error <= TOLERANCES["fp32"]} == {}


def test_it_belongs_to_the_embedded_tower():
    files, bundle = CaptionerFiles.open(), Bundle.open()
    session = open_session(bundle, tower_graph(bundle), CpuOptions(threads=1))
    files.check_tower(bundle, session, TOLERANCES["fp32"])

    class Wrong:
        input_dims = session.input_dims

        def run(self, inputs, outputs):
            return session.run({**inputs, "pixels": inputs["pixels"] * np.float32(0.99)}, outputs)

    with pytest.raises(BundleError, match=r"does not belong.*off by"):
        files.check_tower(bundle, Wrong(), TOLERANCES["fp32"])


def test_another_tower_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match="does not belong"):
        Captioner(Bundle.open(tiny_bundle), CaptionerFiles.open(), check=False)


def test_the_embedded_files_are_small_and_say_where_they_come_from():
    manifest = CaptionerFiles.open().manifest
    assert sum(info.bytes for info in manifest.files.values()) < 6e6
    assert (manifest.tower, manifest.licence) == ("roads", "Apache-2.0")
    assert manifest.training["scenes"] > 1000
    assert max(error for outputs in manifest.parity.values() for error in outputs.values()) <= TOLERANCES["fp32"]


def spoiled(tmp_path, change):
    """A copy of the captioner with a changed manifest."""
    folder = shutil.copytree(default_captioner(), tmp_path / "captioner")
    path = folder / "manifest.json"
    raw = json.loads(path.read_text("utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), "utf-8")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(schema=2), lambda raw: raw.pop("words"), lambda raw: raw.update(heads=5),
        lambda raw: raw["files"].pop("decode.onnx"), lambda raw: raw["files"]["weights.bin"].update(bytes=3),
        lambda raw: raw["files"].update({"../roads/weights.bin": {"bytes": 1, "sha256": ""}}),
        lambda raw: raw["words"].reverse(), lambda raw: raw["files"]["weights.bin"].update(sha256="0"),
    ],
    ids=["schema", "no words", "heads", "no graph", "size", "outside", "vocabulary", "hash"],
)  # fmt: skip
def test_a_damaged_captioner_is_refused(tmp_path, change):
    with pytest.raises(BundleError):
        CaptionerFiles.open(spoiled(tmp_path, change))


def test_a_folder_without_a_captioner_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a captioner"):
        Captioner.load(tmp_path)


# -- answers --------------------------------------------------------------------------------------------------------


def test_what_it_says_is_mostly_true(captioner):
    """On held-out scenes; docs/captioner.md has the scores of 500."""
    right = total = named = true = 0
    for seed in range(SEED + 1, SEED + 9):
        scene = roads.render(seed=seed)
        seen, there = captioner.see(scene.image), {thing.label for thing in scene.objects}
        for label in roads.LABELS:
            answer = captioner.respond(seen, f"is there {roads.article(label)}?").text
            right, total = right + (answer == ("yes" if label in there else "no")), total + 1
        listed = labels_in(captioner.respond(seen, "what is on the road?").text)
        named, true = named + len(listed), true + len(listed & there)
    assert right / total > 0.9
    assert true / named > 0.85


def test_an_answer_is_a_chain_of_likeliest_words(captioner, seen):
    """Word by word: each is the likeliest of all after those before, and has the probability that it says."""
    response = captioner.respond(seen, DESCRIBE)
    asked, ids = captioner.words.prompt(DESCRIBE), captioner.words.encode(response.text)
    assert captioner.words.spelled(ids) == response.tokens
    for number, (word, logprob) in enumerate(zip(ids, response.logprobs, strict=True)):
        logs = captioner.decoder.following(seen.memory, [*asked, *ids[:number]])[-1]
        assert np.exp(logs.astype(float)).sum() == pytest.approx(1, abs=1e-5)
        assert logs.argmax() == word
        assert logprob == pytest.approx(float(logs[word]), abs=1e-5)
    assert response.complete
    assert response.model == captioner.manifest.name
    assert response.wall_ms > 0


def test_an_answer_can_be_cut(captioner, seen):
    whole = captioner.respond(seen, DESCRIBE)
    cut = captioner.respond(seen, DESCRIBE, max_words=2)
    assert (cut.tokens, cut.complete) == (whole.tokens[:2], False)
    assert captioner.respond(seen, DESCRIBE, max_words=1000).tokens == whole.tokens
    for wrong in (0, -1, 1.5):
        with pytest.raises(OptionError, match="length of the response"):
            captioner.respond(seen, DESCRIBE, max_words=wrong)


def test_an_image_and_what_was_seen_of_it_are_answered_alike(captioner, scene, seen):
    one, two = captioner.respond(scene.image, DESCRIBE), captioner.respond(seen, DESCRIBE)
    assert (one.text, one.logprobs) == (two.text, two.logprobs)


def test_threads_get_the_same_answers(captioner, seen):
    prompts = [DESCRIBE, "what is on the road?", "is there a car?", "what is the weather?"] * 3
    wanted, got = [captioner.respond(seen, prompt).logprobs for prompt in prompts], [None] * len(prompts)

    def ask(number):
        got[number] = captioner.respond(seen, prompts[number]).logprobs

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted


@pytest.mark.parametrize("prompt", ["", "  ", None, "is there a car? " * 10], ids=["empty", "blank", "none", "long"])
def test_a_prompt_that_cannot_be_asked(captioner, seen, prompt):
    with pytest.raises(TextError):
        captioner.respond(seen, prompt)


def test_unknown_words_are_named(captioner, seen):
    with pytest.warns(UnknownWordsWarning, match="zebra"):
        captioner.respond(seen, "is there a zebra?")
    with pytest.raises(ImageError):
        captioner.respond("no such file.png", DESCRIBE)


# -- explanations ---------------------------------------------------------------------------------------------------


def test_an_explanation_is_of_the_answer(captioner, scene, seen):
    explanation, response = captioner.explain(seen, DESCRIBE), captioner.respond(seen, DESCRIBE)
    words = len(response.tokens)
    assert explanation.response.tokens == response.tokens
    assert explanation.response.logprobs == pytest.approx(response.logprobs, abs=1e-5)
    assert explanation.words == captioner.words.spelled(
        [*captioner.words.prompt(DESCRIBE), *captioner.words.encode(response.text)]
    )
    assert explanation.map.shape == (14, 14)
    assert explanation.layer_maps.shape == (captioner.manifest.layers, 14, 14)
    assert explanation.word_maps.shape == (words, 14, 14)
    assert explanation.earlier.shape == (words, explanation.first + words)
    assert explanation.map.min() >= 0
    np.testing.assert_allclose(explanation.map, explanation.layer_maps.sum(0), rtol=1e-5)
    assert explanation.heatmap().shape == scene.image.shape[:2]
    assert explanation.graph()["prompt"] == DESCRIBE
    assert explanation.overlay(0).size == explanation.overlay().size == scene.image.shape[1::-1]


def test_the_last_layers_map_is_the_sum_of_its_words(captioner, seen):
    """There every word has rows of its own; in layers below one row serves several words."""
    layers = captioner.manifest.layers
    last = tuple(float(layer == layers - 1) for layer in range(layers))
    explanation = captioner.explain(seen, DESCRIBE, options=MapOptions(strengths=last))
    np.testing.assert_allclose(explanation.word_maps.sum(0), explanation.map, atol=1e-5 * explanation.map.max())
    assert np.abs(explanation.layer_maps[:-1]).max() == 0


def test_strengths_weigh_the_layers(captioner, seen):
    layers = captioner.manifest.layers
    whole = captioner.explain(seen, DESCRIBE)
    weighed = captioner.explain(seen, DESCRIBE, options=MapOptions(strengths=(0.25, *[1.0] * (layers - 1))))
    np.testing.assert_allclose(weighed.layer_maps[0], 0.25 * whole.layer_maps[0], rtol=1e-5)
    np.testing.assert_allclose(weighed.layer_maps[1:], whole.layer_maps[1:], rtol=1e-5)
    with pytest.raises(OptionError, match="one strength per decoder layer"):
        captioner.explain(seen, DESCRIBE, options=MapOptions(strengths=(1.0,) * (layers + 1)))


def test_a_given_response_is_explained_instead(captioner, seen):
    """Of "yes" and "no" one is likely: their probabilities add up to nearly 1."""
    yes, no = (captioner.explain(seen, "is there a car?", answer) for answer in ("yes", "no"))
    assert np.exp(yes.log_likelihood) + np.exp(no.log_likelihood) == pytest.approx(1, abs=0.02)
    assert not np.allclose(yes.map, no.map)
    for wrong in ("", "a zebra"):
        with pytest.raises(TextError, match="cannot be explained"):
            captioner.explain(seen, DESCRIBE, wrong)
    with pytest.raises(TextError, match="response too long"):
        captioner.explain(seen, DESCRIBE, "a car " * 20)


def test_the_map_of_yes_points_at_the_object(captioner):
    """More often than not, where chance is its share of the picture; docs/captioner.md has the scores."""
    hits, chance = [], []
    for seed in range(SEED + 20, SEED + 32):
        scene = roads.render(seed=seed)
        seen = captioner.see(scene.image)
        for thing in scene.objects:
            if sum(other.label == thing.label for other in scene.objects) == 1:
                heat = captioner.explain(seen, f"is there {roads.article(thing.label)}?", "yes").heatmap()
                hits.append(thing.mask.reshape(-1)[heat.argmax()])
                chance.append(thing.mask.mean())
    assert np.mean(hits) > 0.5 > 3 * np.mean(chance)


# -- interventions --------------------------------------------------------------------------------------------------


def test_without_its_features_an_object_is_less_likely(captioner):
    """ "yes" loses likelihood where an object's features are replaced, and hardly in the mirrored place."""
    there, mirrored = [], []
    for seed in range(SEED + 40, SEED + 44):
        scene = roads.render(seed=seed)
        seen = captioner.see(scene.image)
        for label in {thing.label for thing in scene.objects}:
            prompt = f"is there {roads.article(label)}?"
            mask = np.any([thing.mask for thing in scene.objects if thing.label == label], axis=0)
            other = np.ascontiguousarray(mask[:, ::-1])
            if captioner.respond(seen, prompt).text == "yes" and not (mask & other).any():
                there.append(captioner.intervene(seen, prompt, mask).log_likelihood_change)
                mirrored.append(captioner.intervene(seen, prompt, other).log_likelihood_change)
    assert len(there) >= 6
    assert np.mean(there) < -1
    assert np.mean(mirrored) > 0.2 * np.mean(there)


def test_features_of_another_image_take_their_place(captioner, seen):
    """With nearly all features of the other image, what is said is nearly what is said of it."""
    other = captioner.see(roads.render(seed=SEED + 60).image)
    changed = captioner.intervene(seen, "what is on the road?", (0, 0, 224, 208), donor=other)
    assert changed.replaced.sum() == 13 * 14
    assert changed.before.text == captioner.respond(seen, "what is on the road?").text
    wanted = labels_in(captioner.respond(other, "what is on the road?").text)
    assert len(labels_in(changed.after.text) ^ wanted) <= 2
    same = captioner.intervene(seen, "what is on the road?", (0, 0, 224, 208), donor=seen)
    assert (same.removed, same.added) == ((), ())
    assert same.log_likelihood_change == pytest.approx(0, abs=1e-4)
