"""From signals to maps, words before, regions and graphs, by slow loops in float64."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from eyeshine.captioner import MapOptions, Response, ResponseExplanation
from eyeshine.captioner.intervention import Intervention, patches_in
from eyeshine.captioner.maps import earlier_words, layer_maps
from eyeshine.captioner.words import ANSWER, END, SPECIAL, START, UNKNOWN, Words
from eyeshine.errors import OptionError
from eyeshine.preprocess import CropBox
from oracle import relative

B, L, H, T, N, D = 2, 3, 2, 5, 6, 8
LOOPS = 1e-4  # docs/numerics.md: maps against slow loops


@pytest.fixture
def signals():
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    def attention(*shape):
        rows = np.exp(normal(*shape))
        return rows / rows.sum(-1, keepdims=True)

    own = attention(B, L, H, T, T) * np.tri(T, dtype=np.float32)
    return {
        "cross_query": normal(B, L, T, D), "cross_attention": attention(B, L, H, T, N),
        "cross_gradient": normal(B, L, T, D), "self_attention": own, "self_gradient": normal(B, L, H, T, T),
    }, normal(L, N, D), normal(L, N, D)  # fmt: skip


def test_attention_form(signals):
    found, keys, values = signals
    wanted = np.zeros((B, L, N))
    for b, layer, head, t, n in np.ndindex(B, L, H, T, N):
        channels = range(head * D // H, (head + 1) * D // H)
        u = sum(float(found["cross_gradient"][b, layer, t, c]) * float(values[layer, n, c]) for c in channels)
        wanted[b, layer, n] += max(0.0, float(found["cross_attention"][b, layer, head, t, n]) * u)
    assert relative(layer_maps(found, keys, values, "attention"), wanted) <= LOOPS


def test_grad_eclip_form(signals):
    found, keys, values = signals
    wanted = np.zeros((B, L, N))
    for b, layer, t in np.ndindex(B, L, T):
        query = found["cross_query"][b, layer, t].astype(float)
        cosines = [
            float(query @ key) / math.sqrt(float(query @ query) * float(key @ key)) for key in keys[layer].astype(float)
        ]
        for n in range(N):
            weight = (cosines[n] - min(cosines)) / (max(cosines) - min(cosines))
            evidence = float(found["cross_gradient"][b, layer, t].astype(float) @ values[layer, n])
            wanted[b, layer, n] += weight * max(0.0, evidence)
    assert relative(layer_maps(found, keys, values, "grad_eclip"), wanted) <= LOOPS


def test_equal_or_empty_keys_leave_no_noise(signals):
    found, keys, values = signals
    for same in (np.broadcast_to(keys[:, :1], keys.shape), np.zeros_like(keys)):
        assert np.abs(layer_maps(found, same, values, "grad_eclip")).max() == 0


def test_words_before_by_slow_loops(signals):
    found, _, _ = signals
    rows, strengths = np.array([2, 4]), np.array([1.0, 0.5, 0.25], np.float32)
    wanted = np.zeros((B, T))
    for b in range(B):
        relevance = [[float(i == j) for j in range(T)] for i in range(T)]
        for layer in range(L):
            a, g = (found[name][b, layer].astype(float) for name in ("self_attention", "self_gradient"))
            added = [[0.0] * T for _ in range(T)]
            for i, j, k, head in np.ndindex(T, T, T, H):
                added[i][j] += strengths[layer] * max(0.0, a[head, i, k] * g[head, i, k]) / H * relevance[k][j]
            relevance = [[relevance[i][j] + added[i][j] for j in range(T)] for i in range(T)]
        wanted[b] = [relevance[rows[b]][j] - (rows[b] == j) for j in range(T)]
    got = earlier_words(found, rows, strengths)
    assert relative(got, wanted) <= LOOPS
    assert np.abs(got[0, 3:]).max() == 0  # later words have no say
    assert got.min() >= 0


@pytest.mark.parametrize(
    "wrong", [{"form": "chefer"}, {"strengths": (0.0, 0.0)}, {"strengths": (1.5, 1)}, {"strengths": (-0.1, 1)},
              {"strengths": ()}],
)  # fmt: skip
def test_options_are_checked(wrong):
    with pytest.raises(OptionError):
        MapOptions(**wrong)


def test_there_is_one_strength_per_layer():
    assert MapOptions().weights(2).tolist() == [1, 1]
    assert MapOptions(strengths=(0.5, 1.0)).weights(2).tolist() == [0.5, 1]
    with pytest.raises(OptionError, match=r"one strength per decoder layer.*3.*2"):
        MapOptions(strengths=(1, 1, 1)).weights(2)


# -- words ----------------------------------------------------------------------------------------------------------

VOCABULARY = Words((*SPECIAL, ",", "?", "a", "and", "car", "dog", "is"))


def test_words_to_ids_and_back():
    assert VOCABULARY.prompt("Is a CAR?") == [START, 11, 7, 9, 6, ANSWER]
    assert VOCABULARY.encode("a zebra, a dog") == [7, UNKNOWN, 5, 7, 10]
    assert VOCABULARY.unknown("a zebra, a Zebra and 3 dogs") == ["zebra", "3", "dogs"]
    assert VOCABULARY.decode([START, 7, 9, 5, 7, 10, 6, END]) == "a car, a dog?"
    assert VOCABULARY.spelled([START, 9]) == ("<start>", "car")


@pytest.mark.parametrize("names", [("a", "b"), (*SPECIAL, "a", "a"), ("<unknown>", *SPECIAL)])
def test_a_vocabulary_begins_with_the_special_words_and_repeats_none(names):
    with pytest.raises(OptionError, match="not a vocabulary"):
        Words(names)


# -- regions --------------------------------------------------------------------------------------------------------

WHOLE = CropBox.whole(8, 12)


def slow_patches(mask, crop, grid, fine=10):
    """Share of each patch by counting sample points."""
    result = np.zeros(grid, bool)
    for row, column in np.ndindex(*grid):
        inside = 0
        for i, j in np.ndindex(fine, fine):
            y = crop.y0 + (crop.y1 - crop.y0) * (row + (i + 0.5) / fine) / grid[0]
            x = crop.x0 + (crop.x1 - crop.x0) * (column + (j + 0.5) / fine) / grid[1]
            inside += mask[int(y), int(x)]
        result[row, column] = inside / fine**2 >= 0.25
    return result


@pytest.mark.parametrize("crop", [WHOLE, CropBox(0, 8, 2, 10, 8, 12)], ids=["whole", "cropped"])
def test_the_patches_of_a_mask_by_counting(crop):
    mask = np.zeros((8, 12), bool)
    mask[1:4, 3:8] = True
    assert np.array_equal(patches_in(mask, (8, 12), crop, (4, 4)), slow_patches(mask, crop, (4, 4)))


def test_a_box_is_the_mask_of_its_pixels_and_may_cut_them():
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:9] = True
    by_mask = patches_in(mask, (8, 12), WHOLE, (4, 4))
    assert np.array_equal(patches_in((3, 2, 9, 6), (8, 12), WHOLE, (4, 4)), by_mask)
    assert patches_in((0, 0, 1.6, 1), (8, 12), WHOLE, (4, 4)).sum() == 1  # 1.6 of the 6 pixels of a patch
    with pytest.raises(OptionError, match="covers no patch"):
        patches_in((0, 0, 1.4, 1), (8, 12), WHOLE, (4, 4))


@pytest.mark.parametrize(
    "region",
    [(0, 0, 13, 4), (4, 0, 4, 4), (0, 0, 12, 8), np.zeros((8, 12), bool), np.ones((8, 12)), np.ones((4, 4), bool)],
    ids=["outside", "empty", "all", "no pixel", "not bool", "another size"],
)  # fmt: skip
def test_a_region_that_is_none_is_refused(region):
    with pytest.raises(OptionError):
        patches_in(region, (8, 12), WHOLE, (4, 4))


def test_what_an_intervention_changed():
    before = Response("a car and a dog", ("a", "car", "and", "a", "dog"), (-0.1, -0.2, -0.1, -0.1, -0.5), "m", 1.0)
    after = Response("a dog and dog", ("a", "dog", "and", "dog"), (-0.1,) * 4, "m", 1.0)
    again = (-0.1, -2.2, -0.1, -0.1, -0.5)
    changed = Intervention(prompt="?", before=before, after=after, before_again=again, replaced=np.eye(2, dtype=bool))
    assert changed.removed == ("car", "a")
    assert changed.added == ("dog",)
    assert changed.log_likelihood_change == pytest.approx(-2.0)
    record = json.loads(json.dumps(changed.record()))
    assert record["words"][1] == {"word": "car", "log_probability_change": -2.0}
    assert record["replaced_patches"] == [[0, 0], [1, 1]]


# -- graph ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def explanation():
    """Two words after a prompt of three, on a grid of 2 x 3 patches."""
    random = np.random.default_rng(1)
    earlier = random.random((2, 5), dtype=np.float32) * np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], np.float32)
    return ResponseExplanation(
        prompt="dog?", response=Response("a dog", ("a", "dog"), (-0.5, -0.25), "m", 1.0),
        words=("<start>", "dog", "<answer>", "a", "dog"), map=random.random((2, 3), dtype=np.float32),
        layer_maps=random.random((2, 2, 3), dtype=np.float32), word_maps=random.random((2, 2, 3), dtype=np.float32),
        earlier=earlier, options=MapOptions(), image=np.zeros((20, 30, 3), np.uint8),
        crop=CropBox(0, 20, 3, 27, 20, 30),
    )  # fmt: skip


def test_the_graph_by_slow_loops(explanation):
    graph = json.loads(json.dumps(explanation.graph(patches=2, words=1)))
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert [nodes[f"w{k}"]["word"] for k in range(5)] == list(explanation.words)
    assert [nodes[f"w{k}"]["role"] for k in range(5)] == ["prompt"] * 3 + ["response"] * 2
    for number, target in enumerate(("w3", "w4")):
        seen, read = explanation.word_maps[number].reshape(-1), explanation.earlier[number]
        total = sum(map(float, seen)) + sum(map(float, read))
        best = [f"p{k}" for k in sorted(range(6), key=lambda k: -seen[k])[:2]]
        best.append(f"w{max(range(5), key=lambda k: read[k])}")
        edges = {edge["source"]: edge for edge in graph["edges"] if edge["target"] == target}
        assert set(edges) == set(best)
        for source, edge in edges.items():
            weight = float((seen if source[0] == "p" else read)[int(source[1:])])
            assert edge["weight"] == pytest.approx(weight)
            assert edge["share"] == pytest.approx(weight / total)
        assert nodes[target]["kept"] == pytest.approx(sum(edge["share"] for edge in edges.values()))
        assert nodes[target]["image_share"] == pytest.approx(sum(map(float, seen)) / total)
    patch = next(node for node in graph["nodes"] if node["kind"] == "patch")
    left, top = 3 + 8 * patch["column"], 10 * patch["row"]
    assert patch["box"] == pytest.approx([left, top, left + 8, top + 10])
    assert graph["log_likelihood"] == pytest.approx(-0.75)


def test_a_word_that_rests_on_nothing_has_no_edges(explanation):
    nothing = replace(explanation, word_maps=explanation.word_maps * 0, earlier=explanation.earlier * 0)
    graph = nothing.graph()
    assert graph["edges"] == []
    assert [node["image_share"] for node in graph["nodes"] if "image_share" in node] == [0, 0]
    assert nothing.heatmap(0).max() == 0
    assert nothing.picture().width > 100
    with pytest.raises(OptionError, match="edges of a word"):
        explanation.graph(patches=-1)


def test_heat_maps_are_on_what_was_seen(explanation):
    heat = explanation.heatmap()
    assert heat.shape == (20, 30)
    assert np.abs(heat[:, :3]).max() == np.abs(heat[:, 27:]).max() == 0
    assert explanation.heatmap(1, (40, 60)).shape == (40, 60)
    assert not np.array_equal(explanation.heatmap(0), explanation.heatmap(1))
    with pytest.raises(OptionError, match=r"no such word.*0\.\.1"):
        explanation.heatmap(2)


def test_the_picture_shows_every_word_and_the_strongest_arcs(explanation):
    picture = explanation.picture()
    plain = replace(explanation, earlier=explanation.earlier * 0).picture()
    assert picture.size == plain.size
    arcs = np.any(np.asarray(picture) != np.asarray(plain), axis=2)
    assert arcs[:170].any()  # above the words; captions beneath differ too, they say how much is image
