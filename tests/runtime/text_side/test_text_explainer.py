"""The text side through the facade: batches, both sides, templates, cut texts, what is refused."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.errors import OptionError, SignalError, TextError, UnknownWordsWarning
from eyeshine.methods import GradEclip
from eyeshine.text_side import TextExplanation, TextGradEclip, run
from eyeshine.texts import TextVector

TEXTS = ["a red car left of the house", "a dog", "tree", "the small blue cat", "a cat"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


IMAGES = [photo(0), photo(1), photo(2)]


def test_shapes_names_and_facts(explainer):
    found = explainer.explain(IMAGES, TEXTS, side="text")
    assert isinstance(found, TextExplanation)
    assert (found.relevance.shape, found.relevance.dtype) == ((3, 5, 7), np.float32)
    assert found.similarities.shape == (3, 5)
    assert found.texts == tuple(TEXTS)
    assert found.tokens[3] == ("the", "small", "blue", "cat")
    assert [len(ids) for ids in found.ids] == [7, 2, 1, 4, 2]
    assert (found.relevance >= 0).all()
    assert found.relevance.any()
    assert (found.method, found.signed, found.bundle) == ("grad_eclip", False, "tiny")
    assert found.engine["graph"] == "words"
    assert found.engine["provider"] == "CPUExecutionProvider"
    parts = [value for name, value in found.timings_ms.items() if name != "total"]
    assert sum(parts) == pytest.approx(found.timings_ms["total"], rel=1e-6)
    plain = explainer.explain(IMAGES, TEXTS)
    assert np.abs(found.similarities - plain.similarities).max() <= 1e-5


@pytest.mark.parametrize("name", ["grad_eclip", "mmel", "attention"])
def test_a_batch_is_each_image_and_text_by_itself_however_runs_are_parted(explainer, monkeypatch, name):
    whole = explainer.explain(IMAGES, TEXTS, side="text", method=name)
    for b, image in enumerate(IMAGES):
        for p, text in enumerate(TEXTS):
            alone = explainer.explain(image, [text], side="text", method=name)
            assert np.allclose(whole.of(b, p), alone.of(), atol=1e-6)
    monkeypatch.setattr(run, "_IMAGES", 2)
    monkeypatch.setattr(run, "_PAIRS", 2)
    parted = explainer.explain(IMAGES, TEXTS, side="text", method=name)
    assert np.allclose(parted.relevance, whole.relevance, atol=1e-6)
    assert np.allclose(parted.similarities, whole.similarities, atol=1e-6)


def test_both_sides_are_the_sides_by_themselves(explainer):
    both = explainer.explain(IMAGES, TEXTS, side="both", method="chefer")
    image, text = (explainer.explain(IMAGES, TEXTS, side=side, method="chefer") for side in ("image", "text"))
    assert image.text_side is None
    assert np.array_equal(both.maps, image.maps)
    # The image graph's vectors and those of `encode` are of two graphs.
    near = {"rtol": 0, "atol": 1e-4 * np.abs(text.relevance).max()}
    np.testing.assert_allclose(both.text_side.relevance, text.relevance, **near)
    assert both.record(1)["text_side"]["texts"][0]["tokens"] == TEXTS[0].split()
    assert "text_side" not in image.record()
    signed = explainer.explain(
        IMAGES, TEXTS, side="both", method=GradEclip(spatial=False), text_method=TextGradEclip(signed=True)
    )
    assert signed.text_side.signed
    assert signed.text_side.method == "grad_eclip"
    by_name = explainer.explain(IMAGES, TEXTS, side="both", method="concept_attribution", text_method="chefer")
    np.testing.assert_allclose(by_name.text_side.relevance, text.relevance, **near)


def test_shares_and_words_sum_to_the_whole(explainer):
    found = explainer.explain(IMAGES, TEXTS, side="text", method=TextGradEclip(signed=True))
    for b in range(3):
        for p, text in enumerate(TEXTS):
            shares = found.of(b, p, shares=True)
            assert np.abs(shares).sum() == pytest.approx(1, abs=1e-6)
            assert np.allclose(shares * np.abs(found.of(b, p)).sum(), found.of(b, p), atol=1e-7)
            words = found.words(b, p)
            assert [word for word, _ in words] == text.split()
            assert sum(value for _, value in words) == pytest.approx(float(found.of(b, p).sum()), abs=1e-6)
    with pytest.raises(OptionError, match="no such image"):
        found.of(3)
    with pytest.raises(OptionError, match="no such prompt"):
        found.words(0, -1)


def test_no_evidence_is_zeros_and_not_nan(explainer):
    found = explainer.explain(IMAGES[:1], ["a dog"], side="text")
    nothing = TextExplanation(**{**found.__dict__, "relevance": np.zeros_like(found.relevance)})
    assert not nothing.of(0, 0, shares=True).any()
    assert not nothing.levels()[0].any()
    assert nothing.words(0, 0, shares=True) == [("a", 0.0), ("dog", 0.0)]
    assert "a dog" in nothing.html()
    assert nothing.picture().size[0] > 0


def test_a_template_is_part_of_the_text_and_several_are_refused(tiny_bundle):
    one = Explainer.load(tiny_bundle, threads=1, templates=["a photo of the {}"])
    found = one.explain(IMAGES[0], ["red car"], side="text")
    assert found.texts == ("red car",)
    assert found.tokens == (("a", "photo", "of", "the", "red", "car"),)
    assert found.similarities[0, 0] == pytest.approx(one.explain(IMAGES[0], ["red car"]).similarities[0, 0], abs=1e-5)
    several = Explainer.load(tiny_bundle, threads=1, templates=["a {}", "the {}"])
    with pytest.raises(OptionError, match="several templates"):
        several.explain(IMAGES[0], ["red car"], side="text")


def test_a_cut_text_is_explained_as_far_as_it_was_read(explainer):
    long = "dog cat tree " * 8
    with pytest.raises(TextError, match="truncate"):
        explainer.explain(IMAGES[0], [long], side="text")
    found = explainer.explain(IMAGES[0], [long], side="text", truncate=True)
    assert len(found.tokens[0]) == 10
    assert len(found.words()) == 10
    cut = " ".join(long.split()[:10])
    assert np.allclose(found.of(), explainer.explain(IMAGES[0], [cut], side="text").of(), atol=1e-7)


def test_what_the_text_side_cannot_explain_is_refused(explainer):
    vector = TextVector("mine", np.ones(24))
    for side in ("text", "both"):
        with pytest.raises(TextError, match="no tokens"):
            explainer.explain(IMAGES[0], ["a dog", vector], side=side)
        with pytest.raises(OptionError, match="text rather than others"):
            explainer.explain(IMAGES[0], ["a dog", "a cat"], side=side, against="rest")
        with pytest.raises(OptionError, match="no such method on the text side"):
            explainer.explain(IMAGES[0], ["a dog"], side=side, method="concept_attribution")
    with pytest.raises(OptionError, match="side"):
        explainer.explain(IMAGES[0], ["a dog"], side="words")
    with pytest.raises(OptionError, match="text_method"):
        explainer.explain(IMAGES[0], ["a dog"], text_method="chefer")
    with pytest.raises(TextError, match="blank"):
        explainer.explain(IMAGES[0], [" "], side="text")


def test_a_bundle_without_the_graph_or_with_fewer_blocks_names_the_export(tiny_bundle, explainer, tmp_path):
    with pytest.raises(SignalError, match=r"--layers 3 --signals words"):
        explainer.explain(IMAGES[0], ["a dog"], side="text", method=TextGradEclip(layers=3))
    folder = tmp_path / "old"
    shutil.copytree(tiny_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["graphs"]["words"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    old = Explainer.load(folder, threads=1)
    with pytest.raises(SignalError, match="eyeshine export"):
        old.explain(IMAGES[0], ["a dog"], side="text")
    assert old.explain(IMAGES[0], ["a dog"]).text_side is None


def test_unknown_words_are_named_once(explainer):
    for side in ("text", "both"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            explainer.explain(IMAGES[0], [f"a zebra {side}"], side=side)
        named = [str(each.message) for each in caught if each.category is UnknownWordsWarning]
        assert len(named) == 1
        assert "zebra" in named[0]


def test_a_record_is_plain_json(explainer):
    found = explainer.explain(IMAGES, TEXTS, side="text")
    records = json.loads(found.to_json())
    assert len(records) == 3
    row = records[2]["texts"][3]
    assert row["tokens"] == ["the", "small", "blue", "cat"]
    assert row["relevance"] == pytest.approx(found.of(2, 3).tolist())
    assert row["words"][3][0] == "cat"
    assert row["similarity"] == pytest.approx(float(found.similarities[2, 3]), abs=1e-6)
