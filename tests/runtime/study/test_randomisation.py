"""Weights that are drawn anew in a copy of a bundle, and what that does to maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import onnx_ir as ir
import pytest

from eyeshine import Bundle, Explainer, roads
from eyeshine.bundle import HEADS
from eyeshine.datasets import Roads
from eyeshine.errors import BundleError, OptionError
from eyeshine.methods import METHODS
from eyeshine.study.sanity import Randomisation, Subjects, WeightCopy, randomise_weights, summarise
from eyeshine.study.sanity.initialisers import read_initialisers
from eyeshine.study.sanity.weights import head_projection
from eyeshine_export.graph.unfold import state_of
from eyeshine_export.source import Source
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import relative
from tiny import tiny_source, word_tokens
from towers import TOWERS, tower_source

TEXTS = ("a red car", "the green tree")
GRAPHED = ("grad_eclip", "chefer", "concept_attribution", "rollout", "saliency", "legrad")


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.fixture
def copy(tiny, tmp_path):
    return WeightCopy(tiny.bundle, tmp_path / "copy")


def opened(copy):
    return Explainer(copy.open(), check=False)


def test_weights_are_found_where_onnx_finds_them(tiny):
    for graph in tiny.bundle.manifest.graphs.values():
        path = tiny.bundle.folder / graph.file
        values = ir.load(path).graph.initializers.items()
        expected = {name: value.const_value.numpy() for name, value in values if value.const_value is not None}
        expected = {name: array for name, array in expected.items() if array.dtype == np.float32}
        found = {each.name: each for each in read_initialisers(path)}
        assert found.keys() == expected.keys()
        assert len({each.path for each in found.values()}) == 2  # some lie in the graph, some in the shared file
        for name, array in expected.items():
            assert found[name].shape == array.shape
            assert (found[name].read() == array).all()


def test_a_damaged_graph_is_told(tmp_path):
    path = tmp_path / "image.onnx"
    path.write_bytes(b"\x3a\xff\x01 no graph")
    with pytest.raises(BundleError, match=r"cannot be read.*image\.onnx"):
        read_initialisers(path)


def test_a_copy_in_which_nothing_was_drawn_gives_the_same_maps(tiny, copy, image):
    other = opened(copy)
    for name in GRAPHED:
        assert (other.explain(image, TEXTS, method=name).maps == tiny.explain(image, TEXTS, method=name).maps).all()
    assert copy.open().hash == tiny.bundle.hash


def test_heads_are_projected_by_the_weights(tiny, copy):
    """The exporter takes the constant from the checkpoint, the copy from the weights in its graphs."""
    shipped = np.load(tiny.bundle.folder / HEADS)
    assert relative(head_projection(copy.arrays(), len(shipped)), shipped) <= 1e-6
    embedded = Bundle.open()
    weights = {each.name: each.read() for each in read_initialisers(embedded.folder / "deep.onnx")}
    shipped = np.load(embedded.folder / HEADS)
    assert relative(head_projection(weights, len(shipped)), shipped) <= 1e-6


def test_steps_go_from_the_top_and_cover_the_tower(tiny, copy):
    assert copy.steps == ("head", "block 3", "block 2", "block 1", "block 0", "embeddings")
    before, changed = copy.arrays(), Counter()
    for step in copy.steps:
        copy.randomise(step, 0)
        now = copy.arrays()
        changed.update(name for name in now if not (now[name] == before[name]).all())
        before = now
    assert changed == Counter(copy.arrays().keys())  # each once
    text = [each for each in read_initialisers(tiny.bundle.folder / "text.onnx") if each.name.startswith("text.")]
    assert text
    copied = {each.name: each for each in read_initialisers(copy.open().folder / "text.onnx")}
    assert all((copied[each.name].read() == each.read()).all() for each in text)


def test_blocks_below_are_untouched(tiny, copy, image):
    """Attention of the blocks under the drawn ones is the same to the bit, and of these it is another."""
    pixels = tiny.preprocess.prepare(image).pixels[None]
    inputs = {"pixels": pixels, "text": np.ones((1, 24), np.float32)}
    blocks = tiny.bundle.graph("deep").outputs["class_attention"].blocks
    assert blocks == (1, 2, 3)

    def attention(explainer):
        return explainer.model().run("deep", inputs, ["class_attention"])["class_attention"]

    before = attention(tiny)
    copy.randomise("head", 0)
    assert (attention(opened(copy)) == before).all()
    copy.randomise("block 3", 0)
    assert (attention(opened(copy))[:, :2] == before[:, :2]).all()
    copy.randomise("block 2", 0)
    after = attention(opened(copy))
    assert (after[:, :1] == before[:, :1]).all()
    assert all(relative(after[:, k], before[:, k]) > 0.01 for k in (1, 2))


def test_every_graph_gets_the_same_weights(tiny, copy, image, tmp_path):
    """Against a bundle that is exported from the randomised checkpoint: also the exporter's oracle then agrees."""
    for step in copy.steps[:3]:
        copy.randomise(step, 3)
    source = Source(tiny_source().config, state_of(copy.open()), "random weights", tokens=word_tokens())
    groups = tuple(group for group in ("rollout", "legrad", "pixels") if group in tiny.bundle.manifest.groups)
    export_bundle(source, tmp_path / "again", ExportOptions(layers=3, signals=groups))
    one, two = opened(copy), Explainer.load(tmp_path / "again")
    for name in GRAPHED:
        maps = [each.explain(image, TEXTS, method=name).maps for each in (one, two)]
        assert relative(*maps) <= 1e-4, name
        assert relative(maps[0], tiny.explain(image, TEXTS, method=name).maps) > 1e-2, name


def test_draws_keep_what_they_promise(tiny, tmp_path):
    before = WeightCopy(tiny.bundle, tmp_path / "a").arrays()
    drawn = {}
    for number, (draw, seed) in enumerate((("permutation", 0), ("normal", 0), ("normal", 0), ("normal", 1))):
        copy = WeightCopy(tiny.bundle, tmp_path / str(number))
        copy.randomise("block 2", seed, draw)
        drawn[number] = copy.arrays()
    name = "visual.2.expand.weight"
    assert not (drawn[0][name] == before[name]).all()
    assert (np.sort(drawn[0][name], None) == np.sort(before[name], None)).all()
    # 4,096 values: a mean lies within 4 standard errors, a standard deviation within 5 %.
    assert abs(drawn[1][name].mean() - before[name].mean()) <= 4 * before[name].std() / 64
    assert drawn[1][name].std() == pytest.approx(before[name].std(), rel=0.05)
    assert (drawn[1][name] == drawn[2][name]).all()
    assert not (drawn[1][name] == drawn[3][name]).any()
    # Two tensors of one shape are not drawn alike.
    assert not (drawn[1]["visual.2.key.weight"] == drawn[1]["visual.2.value.weight"]).any()


def test_a_model_without_what_it_learned_is_another(tmp_path):
    """Embeddings of the roads model and of randomised ones: cosines around 0, of a size of 1 / sqrt(128)."""
    original = Explainer.load()
    scene = roads.render(seed=roads.HELD_OUT_FROM + 700_000).image
    vector, cosines = original.encode_images(scene)[0], []
    for seed in range(5):
        copy = WeightCopy(original.bundle, tmp_path / str(seed))
        for step in copy.steps:
            copy.randomise(step, seed)
        cosines.append(float(opened(copy).encode_images(scene)[0] @ vector))
    assert max(map(abs, cosines)) <= 4 / np.sqrt(len(vector))


def test_gradient_methods_lose_their_maps_on_roads(tmp_path):
    """The expectation that a method has to meet: without what was learned, none of the map is left."""
    original, found = Explainer.load(), []
    copy = WeightCopy(original.bundle, tmp_path / "copy")
    for step in copy.steps:
        copy.randomise(step, 0)
    other = opened(copy)
    for seed in range(4):
        scene = roads.render(seed=roads.HELD_OUT_FROM + 700_000 + seed).image
        for name in ("grad_eclip", "chefer"):
            before, after = (each.explain(scene, ["a car"], method=name).maps[0, 0] for each in (original, other))
            found.append(np.corrcoef(before.ravel(), after.ravel())[0, 1])
    assert abs(np.mean(found)) <= 0.25


def test_rows_of_a_cascade(tiny):
    subjects = Subjects(
        dataset=Roads(2, texts="labels", size=64), methods={name: METHODS[name] for name in GRAPHED[:2]}, limit=1
    )
    rows = list(randomise_weights(tiny, subjects, Randomisation(seeds=(1, 4))))
    pairs = sum(len(sample.open().texts) for sample in islice(subjects.dataset.samples(), 1))
    assert len(rows) == 2 * pairs * (1 + 2 * 6)  # the original once
    assert rows[0]["step"] == "original"
    for measure in ("spearman", "spearman_abs", "ssim"):
        means = summarise(rows, ("method", "step"), measure)
        for name in GRAPHED[:2]:
            assert means[name, "original"].value == pytest.approx(1, abs=1e-12)
            assert means[name, "embeddings"].value < 0.6
            assert means[name, "embeddings"].defined == 2 * pairs
    # Two seeds are two models, at every step.
    cosines = {(row["seed"], row["step"], row["key"]): row["embedding"] for row in rows}
    assert len(set(cosines.values())) == len(cosines)


def test_what_cannot_be_drawn_is_refused(tiny, tmp_path):
    manifest = replace(tiny.bundle.manifest, precision="int8")
    with pytest.raises(OptionError, match=r"8 bits.*fp32"):
        WeightCopy(Bundle(tiny.bundle.folder, manifest), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"holds something"):
        WeightCopy(tiny.bundle, tmp_path / "b")
    copy = WeightCopy(tiny.bundle, tmp_path / "c")
    with pytest.raises(OptionError, match=r"unknown step.*block 9.*head"):
        copy.randomise("block 9", 0)
    with pytest.raises(OptionError, match=r"unknown draw"):
        copy.randomise("head", 0, "uniform")
    with pytest.raises(OptionError, match=r"seeds"):
        Randomisation(seeds=(1, 1))


def test_what_does_not_read_the_head_is_not_moved_by_it(tiny, copy, image):
    """Rollout and raw attention are blind to the head, to the bit; a method of gradients is not."""
    copy.randomise("head", 0)
    moved = {}
    for name in ("rollout", "attention", "grad_eclip", "chefer", "saliency"):
        maps = [each.explain(image, TEXTS, method=name).maps for each in (opened(copy), tiny)]
        moved[name] = not (maps[0] == maps[1]).all()
    assert moved == {"rollout": False, "attention": False, "grad_eclip": True, "chefer": True, "saliency": True}


@pytest.mark.parametrize(("name", "precision"), [("siglip", "fp32"), ("coca", "fp32"), ("clipa", "fp16")])
def test_other_towers_are_drawn_whole(tmp_path, image, name, precision):
    """Poolers belong to the head, and their learned query is drawn like any weight; half precision stays so."""
    export_bundle(tower_source(TOWERS[name]), tmp_path / "tower", ExportOptions(precision=precision))
    bundle = Bundle.open(tmp_path / "tower")
    copy, shipped = WeightCopy(bundle, tmp_path / "copy"), np.load(tmp_path / "tower" / HEADS)
    bound = 1e-6 if precision == "fp32" else 1e-2  # the exporter projects by the checkpoint's weights, not rounded ones
    assert relative(head_projection(copy.arrays(), len(shipped)), shipped) <= bound
    before, vector = copy.arrays(), opened(copy).encode_images(image)[0]
    copy.randomise("head", 0)
    pooled = [weight for weight in before if weight.startswith("visual.pool.")]
    assert bool(pooled) == (name != "clipa")
    assert not any((copy.arrays()[weight] == before[weight]).all() for weight in pooled)
    for step in copy.steps[1:]:
        copy.randomise(step, 0)
    now = copy.arrays()
    assert [weight for weight in before if (now[weight] == before[weight]).all()] == []
    assert {weight: array.dtype for weight, array in now.items()} == {w: array.dtype for w, array in before.items()}
    other = opened(copy).encode_images(image)[0]
    assert np.isfinite(other).all()
    assert abs(float(other @ vector)) < 0.9
