"""Metrics of the text side against slow loops, on encoders that are known."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest

from eyeshine.errors import OptionError
from eyeshine.metrics.retrieval import Recall, edited, hits, prepare_caption
from eyeshine.metrics.text import TextCase, TextConfidenceDrop, TextConfidenceIncrease

START, END, PAD = 30, 31, 7


def pooled(ids):
    """An encoder whose vector depends on every id, its place, and which is the largest, as CLIP's pooling does."""
    rows = []
    for row in ids:
        values = [np.sin(np.arange(1, 6) * (int(token) + 1) + place) for place, token in enumerate(row)]
        vector = np.mean(values, axis=0) + np.cos(np.arange(5) * int(np.argmax(row)))
        rows.append(vector / np.linalg.norm(vector))
    return np.array(rows, np.float32)


def a_case(seed, count=7):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=5)
    calls = []

    def encode(ids):
        calls.append(ids.tolist())
        return pooled(ids)

    case = TextCase(
        ids=rng.integers(1, 30, count), relevance=rng.normal(size=count), encode=encode, start=START, end=END, pad=PAD,
        image=(image / np.linalg.norm(image)).astype(np.float32),
    )  # fmt: skip
    return case, calls


def slow_change(case, mode, dropped):
    ids, relevance = case.ids.tolist(), case.relevance.tolist()
    middle = median(relevance)
    if mode == "m2ib":
        texts = ids, [token if value > middle else 0 for token, value in zip(ids, relevance, strict=True)]
    else:
        kept = []
        for token, value in zip(ids, relevance, strict=True):
            if value > middle:
                kept.append(token)
            elif dropped == "pad":
                kept.append(PAD)
        texts = [START, *ids, END], [START, *kept, END]
    before, after = (float(pooled([text])[0].astype(float) @ case.image) for text in texts)
    return after - before


@pytest.mark.parametrize(("mode", "dropped"), [("m2ib", "remove"), ("keep-eot", "remove"), ("keep-eot", "pad")])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_confidence_of_texts(mode, dropped, count):
    signs = set()
    for seed in range(8):
        case, calls = a_case(seed, count)
        change = slow_change(case, mode, dropped)
        drop, increase = (kind(mode, dropped) for kind in (TextConfidenceDrop, TextConfidenceIncrease))
        assert drop.read_text(case).value == pytest.approx(max(0, -change), abs=1e-6)
        assert increase.read_text(case).value == (change > 0)
        assert len(calls) == 2  # both metrics share what was encoded
        signs.add(change > 0)
    assert signs == {True, False}


def test_equal_relevance_keeps_nothing():
    case, calls = a_case(0)
    case = TextCase(
        **{**{k: getattr(case, k) for k in ("ids", "image", "encode", "start", "end", "pad")}, "relevance": np.ones(7)}
    )
    TextConfidenceDrop("keep-eot").read_text(case)
    assert [START, END] in [ids for call in calls for ids in call]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TextConfidenceDrop("pad"),
        lambda: TextConfidenceDrop("keep-eot", "blank"),
        lambda: TextConfidenceIncrease(percentile=100),
        lambda: TextCase(
            ids=np.arange(3), relevance=np.ones(2), image=np.ones(5), encode=pooled, start=1, end=2, pad=0
        ),
        lambda: TextCase(
            ids=np.arange(0), relevance=np.ones(0), image=np.ones(5), encode=pooled, start=1, end=2, pad=0
        ),
        lambda: Recall("captions"),
        lambda: Recall(points=0),
    ],
)
def test_options_check_themselves(wrong):
    with pytest.raises(OptionError):
        wrong()


def test_captions_are_prepared_as_in_the_notebook():
    assert prepare_caption('  A "Dog" (small), runs: fast!  #1 ') == "a dog small, runs fast 1"
    assert len(prepare_caption("word " * 60).split()) == 50


def test_words_are_deleted_and_shown_by_relevance():
    words, relevance = ["a", "red", "car", "here"], [0.1, 0.5, 0.9, -1.0]
    assert [edited(words, relevance, k / 4, insert=False) for k in range(5)] == [
        "a red car here", "a red here", "a here", "here", "",
    ]  # fmt: skip
    assert [edited(words, relevance, k / 4, insert=True) for k in range(5)] == [
        "",
        "car",
        "red car",
        "a red car",
        "a red car here",
    ]
    ties = {edited(list("abcdef"), [0] * 6, 0.5, insert=True, seed=seed) for seed in range(20)}
    assert len(ties) > 5


def vectors_of(texts):
    """A vector per text, equal for equal ones; the empty text has one too."""
    rows = [np.random.default_rng(sum(map(ord, text)) + 97 * len(text)).normal(size=6) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def slow_hits(captions, owners, images):
    """Recall by loops, ties by their expectation."""
    texts = {text: vectors_of([text])[0].astype(float) for text in captions}
    of_images = []
    for caption, owner in zip(captions, owners, strict=True):
        scores = [float(texts[caption] @ image.astype(float)) for image in images]
        best = [k for k, score in enumerate(scores) if abs(score - max(scores)) < 1e-7]
        of_images.append((owner in best) / len(best))
    of_texts = []
    for number, image in enumerate(images):
        scores = [float(texts[caption] @ image.astype(float)) for caption in captions]
        best = [c for c, score in enumerate(scores) if abs(score - max(scores)) < 1e-7]
        of_texts.append(sum(owners[c] == number for c in best) / len(best))
    return of_images, of_texts


@pytest.mark.parametrize("blank", [0, 1, 4, 20])
def test_hits_are_those_of_loops_with_equal_captions(blank, monkeypatch):
    monkeypatch.setattr("eyeshine.metrics.retrieval._IMAGES", 3)
    rng = np.random.default_rng(blank)
    owners = np.sort(rng.integers(0, 8, 20))
    captions = [f"caption {k % 13}" for k in range(20)]
    captions[:blank] = [""] * blank
    images = vectors_of([captions[int(np.argmax(owners == k))] + "x" * (k % 2) for k in range(8)])
    encoded = []
    found = hits(captions, owners, images, lambda texts: encoded.extend(texts) or vectors_of(texts))
    expected = slow_hits(captions, owners, images)
    assert len(encoded) == len(set(captions))
    for ours, loop in zip(found, expected, strict=True):
        assert np.allclose(ours, loop)
    if blank == 20:
        assert found[1].sum() == pytest.approx(sum((owners == k).sum() for k in range(8)) / 20)


def test_an_image_that_is_there_twice_is_found_half_the_time():
    images = vectors_of(["a", "b", "b"])
    of_images, _ = hits(["a", "b"], np.array([0, 2]), images, vectors_of)
    assert of_images.tolist() == [1.0, 0.5]


def test_recall_has_directions_and_shares():
    assert Recall(insert=True).direction == "higher"
    assert Recall().direction == "lower"
    assert Recall(points=4).shares == (0, 0.25, 0.5, 0.75, 1)
