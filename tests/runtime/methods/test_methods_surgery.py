"""CLIP Surgery's maps against its equation, written out channel by channel, and through an exported bundle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.engine import CpuOptions, OrtCpuSession
from eyeshine.errors import OptionError, TextError
from eyeshine.methods import BlockSignals, ClipSurgery
from eyeshine.methods.configure import configure
from oracle import relative

TEXTS = ["a red car", "the dog", "a small house"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    x = random.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def slow(features: np.ndarray, texts: np.ndarray, temperature: float = 2.0) -> np.ndarray:
    """The equation for one image, features [T, E] and texts [J, E]: products of channels, and their mean over texts."""
    exponentials = [math.exp(temperature * float(features[0] @ text)) for text in texts]
    p = [value / sum(exponentials) for value in exponentials]
    w = [value / (sum(p) / len(p)) for value in p]
    maps = np.zeros((len(texts), len(features) - 1))
    for i in range(1, len(features)):
        for c in range(features.shape[1]):
            products = [w[j] * float(features[i, c]) * float(texts[j, c]) for j in range(len(texts))]
            for j, product in enumerate(products):
                maps[j, i - 1] += product - sum(products) / len(products)
    return maps


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("temperature", [2.0, 10, 100])
def test_several_texts_lose_what_they_have_in_common(count, temperature):
    random = np.random.default_rng(count)
    features, texts = unit(random, 2, 7, 8), unit(random, count, 8)
    features[0, 0] = texts[0]  # a cosine of 1: e to the highest temperature is beyond float32
    signals = BlockSignals(features=features, prompts=texts, combine=lambda x: x)
    got = ClipSurgery(temperature=temperature).maps(signals, count)
    expected = np.stack([slow(features[b], texts, temperature) for b in range(2)])
    assert relative(got, expected) <= 1e-4
    assert np.abs(got.sum(axis=1)).max() <= 1e-5  # what is left adds up to nothing over the texts
    on_tensors = ClipSurgery(temperature=temperature).maps(
        BlockSignals(features=torch.from_numpy(features), prompts=torch.from_numpy(texts), combine=signals.combine),
        count,
    )
    assert relative(on_tensors.numpy(), got) <= 1e-5


def test_a_single_text_loses_the_empty_one():
    random = np.random.default_rng(0)
    features, text, empty = unit(random, 2, 7, 8), unit(random, 1, 8), unit(random, 8)
    signals = BlockSignals(features=features, prompts=text, empty_text=empty, combine=lambda x: x)
    expected = [[[float(f @ text[0]) - float(f @ empty) for f in image[1:]]] for image in features]
    for method in (ClipSurgery(), ClipSurgery(common="empty")):
        assert relative(method.maps(signals, 1), np.array(expected)) <= 1e-5
    kept = ClipSurgery(common="keep").maps(signals, 1)
    assert relative(kept, np.array([[[float(f @ text[0]) for f in image[1:]]] for image in features])) <= 1e-5


def features_of(explainer: Explainer, image: np.ndarray) -> np.ndarray:
    bundle = explainer.bundle
    session = OrtCpuSession(bundle.folder / bundle.graph("surgery").file, CpuOptions())
    inputs = {
        "pixels": explainer.preprocess.prepare(image).pixels[None],
        "text": np.ones((1, bundle.manifest.model.embed_dim), np.float32),
    }
    return session.run(inputs, ["surgery_features"]).outputs["surgery_features"][0]


def test_maps_of_an_exported_bundle_are_the_equations(explainer):
    image = photo(1)
    result = explainer.explain(image, TEXTS, method="clip_surgery")
    features = features_of(explainer, image)
    expected = slow(features, explainer.encode_texts(TEXTS))
    assert result.engine["graph"] == "surgery"
    assert relative(result.maps[0].reshape(3, -1), expected) <= 1e-4
    deployed = explainer.explain(image, TEXTS, method="grad_eclip").similarities
    assert np.allclose(result.similarities, deployed, atol=1e-6)  # the class token's are the deployed model's

    alone = explainer.explain(image, TEXTS[:1], method="clip_surgery")
    empty = explainer.texts.encode([""])[0]
    expected = features[1:] @ (explainer.encode_texts(TEXTS[:1])[0] - empty)
    assert relative(alone.maps.reshape(-1), expected) <= 1e-4


def test_features_are_of_unit_length_token_by_token(explainer):
    """Not along the tokens, as the code was first released: another map."""
    features = features_of(explainer, photo(1))
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    wrong = features / np.linalg.norm(features, axis=0)
    texts = explainer.encode_texts(TEXTS)
    right, off = slow(features, texts), slow(wrong, texts)
    assert np.corrcoef(right.ravel(), off.ravel())[0, 1] < 0.999


def test_the_map_changes_with_the_image_and_the_set_of_texts(explainer):
    one, other = (explainer.explain(photo(seed), TEXTS, method="clip_surgery").maps for seed in (1, 2))
    assert relative(other, one) > 0.1
    fewer = explainer.explain(photo(1), TEXTS[:2], method="clip_surgery").maps
    assert relative(fewer, one[:, :2]) > 0.01
    kept = configure("clip_surgery", {"common": "keep"})
    fewer, more = (explainer.explain(photo(1), texts, method=kept).maps for texts in (TEXTS[:2], TEXTS))
    assert relative(fewer, more[:, :2]) <= 1e-5


def test_a_difference_of_texts_is_the_difference_of_their_maps(explainer):
    whole = explainer.explain(photo(1), TEXTS, method="clip_surgery").maps
    against = explainer.explain(photo(1), TEXTS[:1], method="clip_surgery", against=TEXTS[1:]).maps
    assert relative(against[:, 0], whole[:, 0] - whole[:, 1:].mean(axis=1)) <= 1e-5


def test_no_text_at_all_has_a_vector_but_is_not_explained(explainer, tiny_bundle):
    text, ids = explainer.bundle.graph("text"), explainer.bundle.manifest.tokenizer
    session = OrtCpuSession(explainer.bundle.folder / text.file, CpuOptions())
    alone = session.run({"tokens": np.array([[ids.start, ids.end]])}, ["text_embedding"]).outputs["text_embedding"]
    assert np.allclose(explainer.texts.encode([""]), alone, atol=1e-6)
    with pytest.raises(TextError, match="blank"):
        explainer.explain(photo(), [""], method="clip_surgery")
    with pytest.raises(TextError, match="nothing is left"):
        explainer.texts.encode(["  "])
    templates = ["a photo of the {}", "the {} and a house"]
    ensemble = Explainer.load(tiny_bundle, threads=1, templates=templates)
    both = explainer.encode_texts(["a photo of the", "the and a house"]).mean(axis=0)
    assert np.allclose(ensemble.texts.encode([""])[0], both / np.linalg.norm(both), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"common": "mean"}, "auto, texts, empty, keep"), ({"temperature": 0}, "above 0"), ({"temperature": True}, "0")],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(OptionError, match=match):
        configure("clip_surgery", settings)


def test_a_single_text_has_nothing_in_common_with_others(explainer):
    with pytest.raises(OptionError, match="two texts or more"):
        explainer.explain(photo(), TEXTS[:1], method=ClipSurgery(common="texts"))
