"""Methods of the text side, pixels and words in, against autograd of open_clip's own modules and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine import Explainer
from eyeshine.errors import OptionError
from eyeshine.methods import Attention, Chefer, ConceptAttribution, Rise
from eyeshine.text_side import TEXT_METHODS, TextGradEclip, TextMmel, TextMmelLiteral, get_text_method
from eyeshine.text_side.base import token_weights
from text_oracle import open_clip_words
from tiny import tiny_config

TEXTS = ["a red car left of the house", "a dog", "tree", "the small blue cat and a photo"]
BLOCKS = 2  # of the tiny text tower


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


IMAGES = [photo(0), photo(1), photo(2)]


@pytest.fixture(scope="module")
def truth(explainer):
    """Signals by autograd in float64, of every text in a context of 12 with padding; [P, ...]."""
    tokens = explainer.texts.tokenizer.encode(TEXTS)
    return open_clip_words(tiny_config(), tokens, explainer.encode_images(IMAGES).astype(np.float64), BLOCKS)


def length(text: str) -> int:
    return len(text.split())


def weight(truth, p: int, k: int, i: int, places: int) -> float:
    """lambda_i of one text and block, place by place: min-max over the first ``places``."""
    end = length(TEXTS[p]) + 1
    query, keys = truth["text_queries"][p, k, end], truth["text_keys"][p, k]
    cosines = [float(query @ key / (np.linalg.norm(query) * np.linalg.norm(key))) for key in keys[:places]]
    return (cosines[i] - min(cosines)) / (max(cosines) - min(cosines))


def grad_eclip(truth, p: int, b: int, *, layers: int = BLOCKS, spatial: bool = True, released: bool = False) -> list:
    """Signed relevance of one text for one image; the evidence of a token is the sum of dc/dA over the heads."""
    places = 12 if released else length(TEXTS[p]) + 2
    total = []
    for i in range(1, 1 + length(TEXTS[p])):
        parts = []
        for k in range(BLOCKS - layers, BLOCKS):
            evidence = float(truth["attention_gradient"][p, b, k, :, i].sum())
            parts.append(evidence * (weight(truth, p, k, i, places) if spatial else 1))
        total.append(sum(parts))
    return total


def assert_is(found, expected) -> None:
    """``found`` [B, P, N] is ``expected(p, b)``, a list per token, and zero behind it."""
    largest = max(abs(value) for p in range(len(TEXTS)) for b in range(3) for value in expected(p, b))
    assert largest > 0
    assert found.shape == (3, len(TEXTS), 7)
    for p, text in enumerate(TEXTS):
        assert not found[:, p, length(text) :].any()
        for b in range(3):
            assert np.abs(found[b, p, : length(text)] - expected(p, b)).max() <= 1e-4 * largest


@pytest.mark.parametrize(
    "settings",
    [{}, {"layers": 1}, {"layers": 2}, {"spatial": False}, {"released": True}, {"layers": 1, "released": True}],
)
@pytest.mark.parametrize("signed", [False, True])
def test_grad_eclip_is_relu_of_the_sum_over_blocks_of_lambda_times_the_attentions_derivative(
    explainer, truth, settings, signed
):
    method = TextGradEclip(signed=signed, **settings)
    found = explainer.explain(IMAGES, TEXTS, side="text", method=method)
    arguments = {"layers": BLOCKS, **settings}

    def expected(p, b):
        values = grad_eclip(truth, p, b, **arguments)
        return values if signed else [max(value, 0) for value in values]

    assert found.signed is signed
    assert_is(found.relevance, expected)
    assert np.abs(found.similarities - truth["text_similarity"].T).max() <= 1e-5


def test_the_relu_comes_after_the_sum_and_drops_something(explainer):
    signed = explainer.explain(IMAGES, TEXTS, side="text", method=TextGradEclip(signed=True)).relevance
    plain = explainer.explain(IMAGES, TEXTS, side="text").relevance
    assert (signed < 0).any()
    assert np.array_equal(plain, np.maximum(signed, 0))
    last, both = (
        explainer.explain(IMAGES, TEXTS, side="text", method=TextGradEclip(layers=n, signed=True)).relevance
        for n in (1, 2)
    )
    assert not np.allclose(np.maximum(last, 0) + np.maximum(both - last, 0), plain)


def test_chefer_is_the_mean_over_heads_of_relu_of_attention_times_its_derivative(explainer, truth):
    def expected(p, b):
        n = length(TEXTS[p])
        products = truth["text_attention"][p, -1] * truth["attention_gradient"][p, b, -1]
        return [float(np.mean([max(head[i], 0) for head in products])) for i in range(1, n + 1)]

    assert_is(explainer.explain(IMAGES, TEXTS, side="text", method="chefer").relevance, expected)


def test_attention_is_that_of_the_end_token_and_the_same_for_every_image(explainer, truth):
    def expected(p, b):
        return [float(truth["text_attention"][p, -1, :, i].mean()) for i in range(1, 1 + length(TEXTS[p]))]

    found = explainer.explain(IMAGES, TEXTS, side="text", method="attention").relevance
    assert_is(found, expected)
    assert np.array_equal(found[0], found[2])


def spread(truth, base: np.ndarray, p: int, settings: TextMmel) -> np.ndarray:
    """MMEL's semantics of one text and image, by torch's own resizing of a line, in float64."""
    n, blocks = length(TEXTS[p]), []
    for k in range(BLOCKS):
        queries = torch.from_numpy(truth["text_queries"][p, k, 1 : n + 1])
        queries = queries - queries.mean(0)
        scores = []
        for s in settings.scales:
            cells = int(np.ceil(round(s * n, 9)))
            coarse = F.normalize(F.adaptive_avg_pool1d(queries.T[None], cells)[0].T, dim=-1)
            relations = (coarse @ coarse.T / settings.temperature).softmax(-1)
            share = F.adaptive_avg_pool1d(torch.from_numpy(base / base.sum())[None, None], cells)[0, 0]
            r = F.interpolate((relations @ share)[None, None], size=n, mode="linear", align_corners=False)[0, 0]
            deviation = r.std(correction=0)
            scores.append((r - r.mean()) / deviation if deviation > 0.01 * r.mean() else torch.zeros(n))
        blocks.append(torch.stack(scores).mean(0))
    return torch.stack(blocks).mean(0).numpy()


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5, "alpha": 1.0}, {"scales": (1.0,), "rho": 0.2}])
def test_mmel_raises_the_base_by_relations_at_scales_of_the_token_axis(explainer, truth, settings):
    method = TextMmel(**settings)

    def expected(p, b):
        base = np.maximum(grad_eclip(truth, p, b), 0)
        if not base.any():
            return base
        semantics = spread(truth, base, p, method)
        raised = base * (1 + method.alpha / (1 + np.exp(-method.beta * semantics)))
        span = semantics.max() - semantics.min()
        context = (semantics - semantics.min()) / span if span else 0 * semantics
        return raised + method.rho * method.alpha * base.max() * context

    assert_is(explainer.explain(IMAGES, TEXTS, side="text", method=method).relevance, expected)


def test_the_literal_mmel_is_its_equations_and_ranks_tokens_as_grad_eclip_does(explainer, truth):
    def expected(p, b):
        n, gate = length(TEXTS[p]), 0.0
        for _ in range(3):  # T is the identity, and a scale cancels in the norm
            for k in range(BLOCKS):
                queries = truth["text_queries"][p, k, 1 : n + 1]
                unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
                gate = gate + np.log1p(np.e) * (unit @ unit.T / np.sqrt(queries.shape[1])).mean(1) / BLOCKS
        return np.maximum(grad_eclip(truth, p, b), 0) * (1 + 2 / (1 + np.exp(-gate)))

    found = explainer.explain(IMAGES, TEXTS, side="text", method="mmel_literal").relevance
    assert_is(found, expected)
    base = explainer.explain(IMAGES, TEXTS, side="text").relevance
    for b, p in np.ndindex(3, len(TEXTS)):
        assert np.array_equal(np.argsort(found[b, p], kind="stable"), np.argsort(base[b, p], kind="stable"))


@pytest.mark.parametrize("name", ["grad_eclip", "chefer", "mmel", "mmel_literal"])
def test_relevance_changes_with_the_image_and_with_the_text(explainer, name):
    found = explainer.explain(IMAGES, TEXTS, side="text", method=name)
    shares = [found.of(b, 0, shares=True) for b in range(3)]
    for first in range(3):
        for second in range(first):
            assert np.abs(shares[first] - shares[second]).max() > 1e-3
    other = explainer.explain(IMAGES[:1], ["a red car left of the tree"], side="text", method=name)
    assert np.abs(other.of(0, 0, shares=True) - shares[0]).max() > 1e-3


def test_padding_that_no_output_depends_on_can_set_the_released_codes_lambda():
    query = np.array([[[1.0, 0.0]]], np.float32).reshape(1, 1, 2)
    keys = np.array([[[[1, 1], [1, 2], [1, 1.5], [-1, 0], [1, 0]]]], np.float32)  # two of padding
    ours, released = token_weights(query, keys, 3)[0, 0], token_weights(query, keys, None)[0, 0]
    assert (ours[:3].min(), ours[:3].max()) == (0, 1)
    assert (released.argmin(), released.argmax()) == (3, 4)
    assert released[:3].min() > 0
    assert released[:3].max() < 1


def test_equal_keys_give_no_weights_and_a_nan_stays_one():
    query, keys = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 3, 4), np.float32)
    assert not token_weights(query, keys, None).any()
    keys[0, 0, 1, 0] = np.nan
    assert np.isnan(token_weights(query, keys, None)).all()


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (TextGradEclip, {"layers": 0}),
        (TextGradEclip, {"layers": True}),
        (TextGradEclip, {"signed": 1}),
        (TextGradEclip, {"spatial": "no"}),
        (TextMmel, {"temperature": 0}),
        (TextMmel, {"layers": 65}),
        (TextMmel, {"layers": 2, "layer_weights": (1.0,)}),
        (TextMmel, {"layer_weights": (1.0, 2.0)}),
        (TextMmel, {"layers": 1, "layer_weights": 1.0}),
        (TextMmelLiteral, {"scales": ()}),
    ],
)
def test_settings_check_themselves(make, settings):
    with pytest.raises(OptionError, match="allowed"):
        make(**settings)


def test_layer_weights_weigh_blocks(explainer):
    alone = explainer.explain(IMAGES, TEXTS, side="text", method=TextMmel(layers=2, layer_weights=(-40.0, 1.0)))
    equal = explainer.explain(IMAGES, TEXTS, side="text", method=TextMmel(layers=2, layer_weights=(1.0, 1.0)))
    plain = explainer.explain(IMAGES, TEXTS, side="text", method=TextMmel(layers=2))
    assert np.allclose(equal.relevance, plain.relevance, atol=1e-7)
    assert not np.allclose(alone.relevance, plain.relevance, atol=1e-4)


def test_methods_are_found_by_name_and_those_of_the_image_side_alone_are_refused():
    assert list(TEXT_METHODS) == ["grad_eclip", "chefer", "attention", "mmel", "mmel_literal", "nib", "m2ib"]
    assert get_text_method("chefer") == Chefer()
    assert get_text_method(Attention()) == Attention()
    for wrong in ("concept_attribution", "nothing", TextGradEclip, ConceptAttribution(), Rise()):
        with pytest.raises(OptionError, match="grad_eclip, chefer"):
            get_text_method(wrong)
