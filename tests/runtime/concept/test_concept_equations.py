"""Concept Attribution: the numbered equations of the paper by slow loops, and its sections without a number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eyeshine.concept import ConceptOptions
from eyeshine.methods import BlockSignals, ConceptAttribution
from eyeshine.upsample import suppress
from eyeshine_kernels.head_scores import head_scores

SIZES = {"images": 2, "prompts": 3, "blocks": 4, "heads": 3, "depth": 4, "patches": 9, "embed": 5}


def random_signals(seed=0, **sizes):
    s = {**SIZES, **sizes}
    random = np.random.default_rng(seed)
    tokens, width = s["patches"] + 1, s["heads"] * s["depth"]

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    text = normal(s["prompts"], s["embed"])
    return BlockSignals(
        values=normal(s["images"], s["blocks"], tokens, width),
        class_attention=random.dirichlet(np.ones(tokens), (s["images"], s["blocks"], s["heads"])).astype(np.float32),
        gradient=1e-2 * normal(s["images"], s["prompts"], s["blocks"], width),
        text=text / np.linalg.norm(text, axis=1, keepdims=True),
        head_projection=normal(s["blocks"], width, s["embed"]),
    )


def last(signals, blocks):
    """The signals of the last blocks."""
    cut = slice(-blocks, None)
    return replace(
        signals,
        values=signals.values[:, cut],
        class_attention=signals.class_attention[:, cut],
        gradient=signals.gradient[:, :, cut],
        head_projection=signals.head_projection[cut],
    )


def contribution(signals, b, k, h):
    """What head h of block k writes into the joint space (the reading of ImageEmbeddings, with a head index)."""
    depth = signals.values.shape[3] // signals.class_attention.shape[2]
    channels = range(h * depth, (h + 1) * depth)
    out = np.zeros(signals.head_projection.shape[2])
    for i in range(signals.values.shape[2]):
        for d in channels:
            weight = float(signals.class_attention[b, k, h, i]) * float(signals.values[b, k, i, d])
            out += weight * signals.head_projection[k, d].astype(float)
    return out


def text_relevance(signals, b, p):
    """Eq. 2, TextRelevance = ImageEmbeddings . TextProjection, one number for each head of each block."""
    _, blocks, heads, _ = signals.class_attention.shape
    text = signals.text[p].astype(float)
    return np.array([[contribution(signals, b, k, h) @ text for h in range(heads)] for k in range(blocks)])


def diversity_penalty(a, b):
    """Eq. 3, A . B / (|A| |B|)."""
    return float(a @ b) / (float(np.sqrt(a @ a)) * float(np.sqrt(b @ b)))


def greedy(signals, b, p, options):
    """Eq. 1, HeadScore = alpha TextRelevance - beta DiversityPenalty, the best head again and again."""
    relevance = text_relevance(signals, b, p)
    z = (relevance - relevance.mean()) / relevance.std()
    left = [(k, h) for k in range(relevance.shape[0]) for h in range(relevance.shape[1])]
    chosen, scores = [], []
    while len(chosen) < options.top:
        best, score = None, -np.inf
        for k, h in left:
            here = options.head_alpha * z[k, h]
            if chosen:
                previous = contribution(signals, b, *chosen[-1])
                here -= options.head_beta * diversity_penalty(contribution(signals, b, k, h), previous)
            if here > score:
                best, score = (k, h), here
        chosen.append(best)
        scores.append(score)
        left.remove(best)
    return chosen, scores


def min_max(values, epsilon=1e-8):
    """III-A, (x - min x) / (max x - min x + eps)."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low + epsilon) for value in values]


def fused(attention, gradient, alpha, options):
    """III-A and III-C: (1 - alpha) SA~ + alpha boost(G~) over patches."""
    g = min_max([value if options.signed else max(value, 0.0) for value in gradient])
    boosted = [v ** (1 / options.beta) if options.boost == "gamma" else min(1.0, options.beta * v) for v in g]
    return [(1 - alpha) * a + alpha * v for a, v in zip(min_max(attention), boosted, strict=True)]


def slow_maps(signals, options):
    """All of it for every image and prompt, one number at a time."""
    images, blocks, heads, tokens = signals.class_attention.shape
    prompts, depth = signals.gradient.shape[1], signals.values.shape[3] // heads
    maps = np.zeros((images, prompts, tokens - 1))
    for b, p in np.ndindex(images, prompts):
        every = [(k, h) for k in range(blocks) for h in range(heads)]
        chosen = every if options.strategy == "layers" else greedy(signals, b, p, options)[0]
        attention, gradient = np.zeros((2, blocks, tokens - 1))
        for k, h in chosen:
            channels = slice(h * depth, (h + 1) * depth)
            for i in range(tokens - 1):
                attention[k, i] += float(signals.class_attention[b, k, h, i + 1]) / len(chosen)
                v, g = signals.values[b, k, i + 1, channels].astype(float), signals.gradient[b, p, k, channels]
                gradient[k, i] += float(v @ g.astype(float))
        if isinstance(options.alpha, tuple):
            rows = [fused(attention[k], gradient[k], alpha, options) for k, alpha in enumerate(options.alpha)]
            maps[b, p] = np.mean(rows, axis=0)
        else:
            maps[b, p] = fused(attention.sum(0), gradient.sum(0), options.alpha, options)
    return maps


def test_equation_1_head_score_and_its_greedy_choice():
    options = ConceptOptions(strategy="both", top=5, head_alpha=1.5, head_beta=0.7)
    signals = random_signals()
    _, selection = ConceptAttribution(options).attribute(signals)
    for b, p in np.ndindex(2, 3):
        chosen, scores = greedy(signals, b, p, options)
        assert [divmod(int(index), 3) for index in selection.indices[b, p]] == chosen
        np.testing.assert_allclose(selection.scores[b, p], scores, atol=1e-4)


def test_equation_2_text_relevance():
    signals = random_signals()
    _, selection = ConceptAttribution(ConceptOptions(strategy="both", top=2)).attribute(signals)
    for b, p in np.ndindex(2, 3):
        wanted = text_relevance(signals, b, p)
        np.testing.assert_allclose(selection.relevance[b, p], wanted, atol=1e-5 * np.abs(wanted).max())
        z = (wanted - wanted.mean()) / wanted.std()
        np.testing.assert_allclose(selection.standardised[b, p], z, atol=1e-4)


def test_equation_3_diversity_penalty():
    """The second choice of a selection without relevance is the head least like the first."""
    signals = random_signals(seed=3)
    options = ConceptOptions(strategy="both", top=2, head_alpha=0.0, head_beta=1.0)
    scores = head_scores(
        signals.class_attention, signals.values, signals.head_projection, signals.text, options=options.head_options()
    )
    for b, p in np.ndindex(2, 3):
        vectors = [contribution(signals, b, *divmod(index, 3)) for index in range(12)]
        cosines = {index: diversity_penalty(vectors[0], vectors[index]) for index in range(1, 12)}
        assert scores.indices[b, p].tolist() == [0, min(cosines, key=cosines.__getitem__)]
        assert scores.scores[b, p, 1] == pytest.approx(-min(cosines.values()), abs=1e-5)


@pytest.mark.parametrize("background", [0.1, 0.2, 0.5])
def test_equations_6_and_7_background_suppression(background):
    random = np.random.default_rng(0)
    maps = random.random((3, 5, 7), dtype=np.float32)
    got = suppress(maps, background)
    for p, y, x in np.ndindex(maps.shape):
        tau = background * max(maps[p].ravel())  # eq. 7
        assert got[p, y, x] == (maps[p, y, x] if maps[p, y, x] > tau else 0)  # eq. 6
    assert suppress(maps, 0.0) is maps


@pytest.mark.parametrize(
    "options",
    [
        ConceptOptions(top=2),
        ConceptOptions(strategy="both", top=4),
        ConceptOptions(strategy="layers"),
        ConceptOptions(strategy="layers", signed=True, alpha=0.3),
        ConceptOptions(strategy="both", top=3, boost="clip", beta=2.0),
        ConceptOptions(strategy="layers", alpha=(0.0, 0.3, 0.8, 1.0), beta=1.0),
        ConceptOptions(strategy="both", top=6, alpha=(0.5, 0.5, 0.9, 0.2), head_beta=0.0),
    ],
    ids=str,
)
def test_maps_are_the_papers_by_slow_loops(options):
    signals = last(random_signals(seed=5), options.explained_blocks)
    got = ConceptAttribution(options).maps(signals, 3)
    np.testing.assert_allclose(got, slow_maps(signals, options), atol=1e-4)
    assert got.min() >= 0
    assert got.max() <= 1 + 1e-6


def test_no_evidence_gives_the_attention_and_no_nan():
    signals = random_signals()
    nothing = replace(signals, gradient=np.zeros_like(signals.gradient))
    options = ConceptOptions(strategy="layers", alpha=0.25)
    got = ConceptAttribution(options).maps(nothing, 3)
    alone = ConceptAttribution(replace(options, alpha=0.0)).maps(signals, 3)
    np.testing.assert_allclose(got, 0.75 * alone, atol=1e-6)


def test_the_ends_of_alpha_are_attention_and_gradient():
    signals = random_signals()
    ends = [ConceptAttribution(ConceptOptions(strategy="layers", alpha=a, beta=1.0)).maps(signals, 3) for a in (0, 1)]
    attention = signals.class_attention[..., 1:].mean(axis=(1, 2))
    low, high = attention.min(-1, keepdims=True), attention.max(-1, keepdims=True)
    np.testing.assert_allclose(ends[0][:, 0], (attention - low) / (high - low), atol=1e-4)
    assert np.abs(ends[0][:, 0] - ends[0][:, 1]).max() == 0
    assert np.abs(ends[1][:, 0] - ends[1][:, 1]).max() > 0.1
