"""The facade on a tiny exported model."""

from __future__ import annotations

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from eyeshine import Explainer
from eyeshine.engine import OrtCpuSession
from eyeshine.errors import ImageError, InputError, OptionError, SignalError, TextError, UnknownWordsWarning
from eyeshine.methods import BlockSignals
from eyeshine.methods.occlusion import Occlusion
from eyeshine.metrics import Deletion, Steps


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int = 0, height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shapes_names_and_ranges(explainer):
    result = explainer.explain(photo(), ["a dog", "a cat", "a car"])
    grid = explainer.bundle.manifest.grid
    assert result.maps.shape == (1, 3, *grid)
    assert result.maps.dtype == np.float32
    assert result.similarities.shape == (1, 3)
    assert (np.abs(result.similarities) <= 1 + 1e-6).all()
    assert (result.method, result.target, result.texts) == ("grad_eclip", "text", ("a dog", "a cat", "a car"))
    assert result.engine["provider"] == "CPUExecutionProvider"
    assert result.engine["threads"] == 1
    assert result.engine["graph"] == "image"
    parts = [value for name, value in result.timings_ms.items() if name != "total"]
    assert sum(parts) == pytest.approx(result.timings_ms["total"], rel=1e-6)


def test_maps_are_those_of_the_gradient_by_autograd(explainer):
    """The whole way: pixels and texts in, Grad-ECLIP from autograd's gradient out."""
    import torch

    from eyeshine.methods import GradEclip
    from eyeshine_export.reference import explain_reference
    from tiny import tiny_config, tiny_source

    tiny = tiny_source(tiny_config())

    image, texts = photo(4), ["a dog", "a cat"]
    result = explainer.explain(image, texts)
    pixels = torch.from_numpy(explainer.preprocess.prepare(image).pixels[None])
    text = torch.from_numpy(explainer.encode_texts(texts))
    normalisation = tiny.normalisation
    signals = explain_reference(tiny.state, tiny.config, pixels, text, 1, normalisation.mean, normalisation.std)
    block = BlockSignals(
        spatial_weights=signals["spatial_weights"].numpy(),
        values=signals["values"].numpy(),
        gradient=signals["gradient"].numpy(),
    )
    expected = GradEclip().maps(block, 2).reshape(result.maps.shape)
    assert np.abs(result.maps - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.allclose(result.similarities, signals["similarity"].numpy(), atol=1e-5)


def test_a_batch_is_each_image_by_itself(explainer):
    images = [photo(1), photo(2, 40, 40), Image.fromarray(photo(3))]
    batch = explainer.explain(images, ["a dog"])
    for index, image in enumerate(images):
        alone = explainer.explain(image, ["a dog"])
        assert np.allclose(batch.maps[index], alone.maps[0], atol=1e-6)
        assert np.allclose(batch.similarities[index], alone.similarities[0], atol=1e-6)


def test_heatmaps_are_per_image_where_sizes_differ_and_one_array_where_forced(explainer):
    result = explainer.explain([photo(1, 40, 60), photo(2, 50, 50)], ["a dog", "a cat"])
    apart = result.heatmaps()
    assert [heat.shape for heat in apart] == [(2, 40, 60), (2, 50, 50)]
    together = result.heatmaps(size=(32, 48))
    assert isinstance(together, np.ndarray)
    assert together.shape == (2, 2, 32, 48)
    assert together.min() >= 0
    assert together.max() <= 1 + 1e-6
    same = explainer.explain([photo(1), photo(2)], ["a dog"]).heatmaps()
    assert isinstance(same, np.ndarray)
    assert same.shape == (2, 1, 60, 90)


def test_what_was_cropped_away_is_zero(explainer):
    result = explainer.explain(photo(1, 40, 200), ["a dog"], method="attention")
    heat = result.heatmap(0)
    crop = result.crops[0]
    assert crop.x0 > 10
    assert (heat[:, :, : int(crop.x0)] == 0).all()
    assert (heat[:, :, int(np.ceil(crop.x1)) :] == 0).all()
    assert heat[:, :, int(crop.x0) + 1 : int(crop.x1)].max() > 0


def test_shared_scale_keeps_prompts_comparable(explainer):
    result = explainer.explain(photo(5), ["a dog", "a cat", "a car"])
    shared = result.heatmap(0, "shared")
    raw = result.maps[0].reshape(3, -1).max(1)
    assert shared.reshape(3, -1).max(1) == pytest.approx(raw / raw.max(), rel=0.35)
    assert result.heatmap(0, "shared", size=result.patch_grid).max() <= 1
    each = result.heatmap(0, "each")
    assert (each.reshape(3, -1).max(1) > 0.5).all()


def test_against_is_a_difference_of_gradients(explainer):
    """The map of 'a rather than b' from the maps' own definition, on the signals of the plain call."""
    texts = ["a dog", "a cat"]
    session = explainer._session("image")
    pixels = explainer.preprocess.prepare(photo(6)).pixels[None]
    run = session.run(
        {"pixels": pixels, "text": explainer.encode_texts(texts)}, ["gradient", "values", "class_attention"]
    )
    g = run.outputs["gradient"]
    from eyeshine.methods import Chefer

    signals = BlockSignals(
        values=run.outputs["values"], class_attention=run.outputs["class_attention"],
        gradient=g[:, :1] - g[:, 1:],
    )  # fmt: skip
    expected = Chefer().maps(signals, 1)
    rest = explainer.explain(photo(6), texts, method="chefer", against="rest")
    named = explainer.explain(photo(6), texts[:1], method="chefer", against=texts[1:])
    assert np.allclose(rest.maps[:, 0].ravel(), expected.ravel(), atol=1e-7)
    assert np.allclose(named.maps.ravel(), expected.ravel(), atol=1e-7)
    assert rest.target == "text against the rest"
    assert named.similarities.shape == (1, 1)


def test_same_input_same_bits_in_one_process_and_in_two(explainer, tiny_bundle):
    first = explainer.explain(photo(7), ["a dog", "a cat"])
    second = explainer.explain(photo(7), ["a dog", "a cat"])
    assert first.maps.tobytes() == second.maps.tobytes()
    code = (
        "import sys, hashlib, numpy as np; from eyeshine import Explainer; "
        f"image = np.random.default_rng(7).integers(0, 256, (60, 90, 3), dtype=np.uint8); "
        f"e = Explainer.load({str(tiny_bundle)!r}, threads=1).explain(image, ['a dog', 'a cat']); "
        "print(hashlib.sha256(e.maps.tobytes()).hexdigest())"
    )
    import hashlib

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == hashlib.sha256(first.maps.tobytes()).hexdigest()


def test_several_threads_get_what_one_gets(tiny_bundle):
    explainer = Explainer.load(tiny_bundle, threads=1, text_cache=2)
    jobs = [(photo(seed), [f"a {word}"]) for seed, word in enumerate(["dog", "cat", "car", "tree"] * 3)]
    alone = [explainer.explain(image, texts).maps for image, texts in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: explainer.explain(*job).maps, jobs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_text_that_was_seen_costs_no_forward_and_the_cache_is_bounded(tiny_bundle, monkeypatch):
    explainer = Explainer.load(tiny_bundle, threads=1, text_cache=3)
    session = explainer._session("text")
    runs = []
    original = session.run
    monkeypatch.setattr(session, "run", lambda *a: runs.append(1) or original(*a))
    explainer.encode_texts(["a dog", "a cat"])
    count = len(runs)
    assert count >= 1
    explainer.encode_texts(["a cat", "a dog", "a cat"])
    assert len(runs) == count
    explainer.encode_texts(
        [f"a {colour} {what}" for colour in ("red", "green", "blue") for what in ("car", "house", "sky")]
    )
    assert len(explainer.texts) == 3
    explainer.encode_texts(["a dog"])
    assert len(runs) > count + 1


def test_labels_that_fill_the_cache_are_encoded_for_the_first_image_alone(tiny_bundle, monkeypatch):
    explainer = Explainer.load(tiny_bundle, threads=1, text_cache=2)
    session, runs = explainer._session("text"), []
    original = session.run
    monkeypatch.setattr(session, "run", lambda *a: runs.append(1) or original(*a))
    labels = ["a dog", "a cat", "a car", "a house", "a tree"]
    metrics = {"deletion": Deletion("prob", Steps(points=3))}
    explainer.evaluate(photo(0), labels[:1], metrics=metrics, labels=labels)
    count = len(runs)
    assert count >= 1
    explainer.evaluate(photo(1), labels[:1], metrics=metrics, labels=labels)
    assert len(runs) == count
    explainer.encode_texts([f"a {colour} {what}" for colour in ("red", "blue", "green") for what in ("car", "sky")])
    assert len(explainer.texts) <= 2 + len(labels)


@pytest.mark.parametrize("method", ["grad_eclip", Occlusion(window=2)], ids=["one run", "passes"])
def test_both_sides_run_the_image_tower_no_more_than_the_image_side(explainer, monkeypatch, method):
    images, asked = [photo(1), photo(2)], {"method": method, "max_batch": 8}
    texts = {"side": "both", "text_method": "grad_eclip"}
    explainer.explain(images, ["a dog", "a cat"], **asked, **texts)  # its sessions are open and checked
    frames, original = [], OrtCpuSession.run

    def run(self, inputs, outputs):
        frames.append(len(inputs.get("pixels", ())))
        return original(self, inputs, outputs)

    monkeypatch.setattr(OrtCpuSession, "run", run)
    alone = explainer.explain(images, ["a dog", "a cat"], **asked)
    expected = sum(frames)
    assert expected >= len(images)
    frames.clear()
    both = explainer.explain(images, ["a dog", "a cat"], **asked, **texts)
    assert sum(frames) == expected
    assert np.array_equal(both.maps, alone.maps)
    assert np.allclose(both.text_side.similarities, both.similarities, atol=1e-5)
    timings = both.text_side.timings_ms
    assert set(timings) == {"text", "load", "graph", "total"}
    assert sum(timings.values()) == pytest.approx(2 * timings["total"])


def test_both_sides_of_an_image_of_another_size():
    kept = Explainer.load(threads=1, resize="keep")
    found = kept.explain(photo(1, 24, 48), ["a tree", "a red car"], side="both")
    assert found.patch_grid == (3, 6)
    assert np.allclose(found.text_side.similarities, found.similarities, atol=1e-5)
    alone = kept.explain(photo(1, 24, 48), ["a tree", "a red car"], side="text")
    assert np.allclose(alone.similarities, found.similarities, atol=1e-5)
    assert np.allclose(alone.relevance, found.text_side.relevance, rtol=1e-3, atol=1e-6)
    with pytest.raises(OptionError, match="own size"):
        kept.explain(photo(1, 24, 48), ["a tree"], side="text", text_method="nib")


def test_templates_are_averaged_on_the_sphere(tiny_bundle, explainer):
    templates = ["a photo of {}", "the small {}"]
    got = Explainer.load(tiny_bundle, threads=1, templates=templates).encode_texts(["a dog"])[0]
    parts = explainer.encode_texts(["a photo of a dog", "the small a dog"])
    mean = parts.mean(0)
    assert np.allclose(got, mean / np.linalg.norm(mean), atol=1e-6)
    with pytest.raises(OptionError, match="exactly one"):
        Explainer.load(tiny_bundle, templates=["a photo"])


def test_encode_images_is_the_embedding_of_the_explained_graph(explainer):
    vectors = explainer.encode_images([photo(1), photo(2)])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    result = explainer.explain([photo(1), photo(2)], ["a dog"])
    assert np.allclose(vectors @ explainer.encode_texts(["a dog"]).T, result.similarities, atol=1e-5)


def test_squash_sees_the_whole_image(tiny_bundle):
    result = Explainer.load(tiny_bundle, threads=1, resize="squash").explain(photo(1, 40, 200), ["a dog"])
    assert (result.crops[0].x0, result.crops[0].x1) == (0, 200)


def test_overlay_and_record(explainer):
    result = explainer.explain(photo(1), ["a dog", "a cat"])
    assert result.overlay(0, 1).size == (90, 60)
    assert result.overlay(0, 1, size=(30, 45)).size == (45, 30)
    record = result.record()
    assert record["similarities"] == pytest.approx(result.similarities[0].tolist(), abs=1e-6)
    assert record["patch_grid"] == list(explainer.bundle.manifest.grid)
    with pytest.raises(OptionError, match="no such prompt"):
        result.overlay(0, 2)


@pytest.mark.parametrize(
    ("images", "texts", "options", "error", "said"),
    [
        (photo(), [], {}, TextError, "no text"),
        (photo(), ["  "], {}, TextError, "blank"),
        (photo(), "a dog", {}, TextError, "list"),
        (photo(), [3], {}, TextError, "not a string"),
        ([], ["a dog"], {}, InputError, "no image"),
        ("nothing.png", ["a dog"], {}, ImageError, "nothing.png"),
        (photo(), ["a dog"], {"method": "magic"}, OptionError, "unknown method"),
        (photo(), ["a dog", "a cat"], {"method": "attention", "against": "rest"}, OptionError, "does not depend"),
        (photo(), ["a dog"], {"against": [" "]}, TextError, "blank"),
        (photo(), ["dog " * 99], {}, TextError, "truncate"),
    ],
)
def test_bad_input_is_refused_in_words(explainer, images, texts, options, error, said):
    with pytest.raises(error, match=said):
        explainer.explain(images, texts, **options)


@pytest.mark.parametrize(
    ("images", "texts", "options", "error"),
    [
        (photo(), None, {}, TextError),
        (photo(), 5, {}, TextError),
        (photo(), ["a dog"], {"against": 5}, OptionError),
        (photo(), ["a dog"], {"against": [["x"]]}, TextError),
        (photo(), ["a dog", "a dog"], {"against": "rest"}, OptionError),
        (photo(), ["a dog"], {"method": None}, OptionError),
    ],
)
def test_values_of_another_type_are_refused_in_the_same_tree(explainer, images, texts, options, error):
    with pytest.raises(error):
        explainer.explain(images, texts, **options)


@pytest.mark.parametrize("size", [5, (3,), (1.5, 2), "ab", (0, 3)])
def test_a_size_that_is_none_is_refused(explainer, size):
    with pytest.raises(OptionError, match="size"):
        explainer.explain(photo(), ["a dog"]).heatmaps(size=size)


def test_a_buffer_that_is_written_again_does_not_change_a_result(explainer):
    buffer = photo(9)
    before = buffer.copy()
    result = explainer.explain(buffer, ["a dog"])
    buffer[:] = 0
    assert np.array_equal(result.images[0], before)


def test_lone_surrogates_are_a_word_that_nobody_knows(explainer):
    with pytest.warns(UnknownWordsWarning):
        explainer.encode_texts(["a dog \udcff"])


def test_heat_lies_where_the_patches_are_when_pixels_are_left_over(tmp_path):
    """39 pixels hold four patches of 8: the last seven rows and columns are seen by nobody."""
    from eyeshine_export.write import export_bundle
    from tiny import tiny_config, tiny_source

    export_bundle(tiny_source(tiny_config(vision={"image_size": 39})), tmp_path / "odd")
    result = Explainer.load(tmp_path / "odd", threads=1).explain(photo(1, 39, 39), ["a dog"], method="attention")
    heat = result.heatmap(0)[0]
    assert (heat[32:] == 0).all()
    assert (heat[:, 32:] == 0).all()
    assert heat[:32, :32].max() > 0


def test_truncate_accepts_a_long_text(explainer):
    assert explainer.explain(photo(), ["dog " * 99], truncate=True).maps.shape[1] == 1


def test_a_method_whose_signals_the_bundle_lacks_names_the_export_command(explainer):
    class Flow:
        name, signals, uses_text, cost, reference = "flow", frozenset({"patch_tokens"}), True, "patches", ""
        blocks, needs = 1, frozenset()

        def maps(self, signals, prompts):
            raise AssertionError("never reached")

    with pytest.raises(SignalError, match="eyeshine export MODEL --out FOLDER"):
        explainer.explain(photo(), ["a dog"], method=Flow())


def test_a_map_that_is_not_finite_never_leaves(explainer):
    class Broken:
        name, signals, uses_text, cost, reference = "broken", frozenset({"class_attention"}), False, "graph", ""
        blocks, needs = 1, frozenset()

        def maps(self, signals, prompts):
            return np.full((1, prompts, signals.class_attention.shape[3] - 1), np.nan, np.float32)

    with pytest.raises(Exception, match="not finite"):
        explainer.explain(photo(), ["a dog"], method=Broken())


def test_the_deep_graph_is_never_run_by_default(explainer):
    assert "deep" in explainer.bundle.manifest.graphs
    for method in ("grad_eclip", "chefer", "attention"):
        assert explainer.explain(photo(), ["a dog"], method=method).engine["graph"] == "image"
    assert explainer.bundle.cheapest(frozenset({"gradient"}), blocks=2) == "deep"


def test_words_that_the_model_never_saw_are_named(explainer):
    with pytest.warns(UnknownWordsWarning, match=r"unicorn, zebra\..*eyeshine export"):
        explainer.encode_texts(["a unicorn", "the zebra"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.encode_texts(["a red house and the sky"])
