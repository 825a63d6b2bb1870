"""Interventions against open_clip's own modules with the same parts taken away."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eyeshine import Bundle, Explainer
from eyeshine.engine import CpuOptions
from eyeshine.errors import OptionError, SignalError
from eyeshine.fills import blurred
from eyeshine.interventions.changes import as_patches
from eyeshine.preprocess import CropBox
from gated import gated_trace
from oracle import relative

TEXTS = ["a red car", "the dog", "a tree"]
LAYERS, HEADS = 4, 2


def pixels_of(explainer, photo):
    return explainer.preprocess.prepare(photo).pixels.astype(np.float64)


@pytest.fixture(scope="session")
def without(explainer, photo, model, tokens, cosines):
    """[P] of photo(0) with heads and parts of blocks taken away, by open_clip's modules."""

    def ask(heads=(), parts=(), values=None):
        gates, blocks = np.ones((LAYERS, HEADS)), np.ones((LAYERS, 2))
        for block, head in heads:
            gates[block, head] = 0
        for block, part in parts:
            blocks[block, part] = 0
        filled = np.zeros((LAYERS, 32)) if values is None else values
        with torch.no_grad():
            first = tokens(pixels_of(explainer, photo()))[0]
            return cosines(gated_trace(model, first, gates, filled, blocks)[0])

    return ask


def test_nothing_changed_is_what_explain_says(explainer, photo):
    result = explainer.intervene(photo(), TEXTS, heads=[(0, 0)])
    assert np.abs(result.before - explainer.explain(photo(), TEXTS).similarities[0]).max() <= 1e-6
    assert (result.change == result.after - result.before).all()
    assert result.engine["graph"] == "gates"


@pytest.mark.parametrize("heads", [[(0, 1)], [(3, 0), (3, 1), (1, 0)]])
def test_an_ablated_head_writes_nothing_or_its_value(explainer, photo, without, heads):
    result = explainer.intervene(photo(), TEXTS, heads=heads)
    assert np.abs(result.after - without(heads)).max() <= 1e-5
    assert np.abs(result.change).max() > 1e-3
    values = np.random.default_rng(0).standard_normal((LAYERS, 32))
    filled = explainer.intervene(photo(), TEXTS, heads=heads, head_values=values)
    assert np.abs(filled.after - without(heads, values=values)).max() <= 1e-5
    assert np.abs(filled.after - result.after).max() > 1e-3


def test_blocks_are_passed_over_whole_or_in_part(explainer, photo, without):
    found = explainer.intervene(photo(), TEXTS, blocks=[1, (2, "attention"), (3, "mlp")], heads=[(0, 0)])
    assert np.abs(found.after - without([(0, 0)], [(1, 0), (1, 1), (2, 0), (3, 1)])).max() <= 1e-5
    assert found.changes == (
        "head 0.0 ablated", "block 1 passed over", "attention of block 2 passed over", "mlp of block 3 passed over"
    )  # fmt: skip


def test_removed_patches_are_as_good_as_not_there(explainer, photo, tokens, onwards, cosines):
    mask = np.random.default_rng(1).random((4, 4)) < 0.4
    result = explainer.intervene(photo(), TEXTS, tokens=mask)
    there = torch.from_numpy(np.concatenate([[True], ~mask.ravel()]))
    alone = onwards(tokens(pixels_of(explainer, photo()))[0][:, there])
    assert np.abs(result.after - cosines(alone)).max() <= 1e-5
    assert np.abs(result.change).max() > 1e-3


@pytest.mark.parametrize("fill", ["mean", "black", "blur"])
def test_filled_patches_need_no_graph_but_encode(plain, photo, tokens, onwards, cosines, fill):
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = mask[3, 0] = True
    result = plain.intervene(photo(), TEXTS, tokens=mask, fill=fill)
    image = pixels_of(plain, photo())
    mean = np.array(plain.bundle.manifest.model.mean)
    blur = blurred(image.astype(np.float32), mean.astype(np.float32))
    for row, column in np.argwhere(mask):
        place = (slice(None), slice(row * 8, row * 8 + 8), slice(column * 8, column * 8 + 8))
        image[place] = {"mean": mean[:, None, None], "black": 0.0, "blur": blur[place]}[fill]
    assert np.abs(result.after - cosines(onwards(tokens(image)[0]))).max() <= 1e-5
    assert result.engine["graph"] == "encode"
    assert np.abs(result.change).max() > 1e-3


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("by", ["mean", "image"])
def test_features_of_a_region_are_replaced_before_the_last_blocks(
    explainer, photo, tokens, onwards, cosines, by, depth
):
    region = np.zeros((4, 4), bool)
    region[:2, 1:3] = True
    result = explainer.intervene(
        photo(), TEXTS, region=region, by="mean" if by == "mean" else photo(1), depth=depth
    )  # fmt: skip
    state = tokens(pixels_of(explainer, photo()))[-depth].clone()
    inside = torch.from_numpy(np.concatenate([[False], region.ravel()]))
    outside = torch.from_numpy(np.concatenate([[False], ~region.ravel()]))
    donor = tokens(pixels_of(explainer, photo(1)))[-depth]
    state[:, inside] = state[:, outside].mean(1, keepdim=True) if by == "mean" else donor[:, inside]
    assert np.abs(result.after - cosines(onwards(state, LAYERS - depth))).max() <= 1e-5
    assert np.abs(result.before - explainer.explain(photo(), TEXTS).similarities[0]).max() <= 1e-6
    assert np.abs(result.change).max() > 1e-3


@pytest.mark.parametrize("max_batch", [3, 32])
def test_a_sweep_is_every_part_by_itself(explainer, photo, without, max_batch):
    heads = explainer.ablate_each(photo(), TEXTS, "heads", max_batch=max_batch)
    blocks = explainer.ablate_each(photo(), TEXTS, "blocks", max_batch=max_batch)
    patches = explainer.ablate_each(photo(), TEXTS, "patches", max_batch=max_batch)
    assert (heads.change.shape, blocks.change.shape) == ((LAYERS, HEADS, 3), (LAYERS, 2, 3))
    assert (heads.encoded, blocks.encoded, patches.encoded) == (9, 9, 17)
    for block in range(LAYERS):
        for part in range(2):
            assert np.abs(heads.after[block, part] - without([(block, part)])).max() <= 1e-5
            assert np.abs(blocks.after[block, part] - without((), [(block, part)])).max() <= 1e-5
    for row, column in [(0, 0), (2, 3)]:
        mask = np.zeros((4, 4), bool)
        mask[row, column] = True
        alone = explainer.intervene(photo(), TEXTS, tokens=mask)
        assert np.abs(patches.change[row, column] - alone.change).max() <= 1e-5
    (place, change), *rest = heads.strongest(prompt=1, count=3)
    assert abs(change) == np.abs(heads.change[..., 1]).max()
    assert change == heads.change[(*place, 1)]
    assert len(rest) == 2
    assert json.loads(json.dumps(heads.record()))["what"] == "heads"


def test_mean_ablation_writes_what_a_head_writes_on_average(explainer, photo, model, tokens, without):
    photos = [photo(seed) for seed in range(5)]
    means = explainer.head_means(photos, max_batch=2)
    ones = np.ones((LAYERS, HEADS))
    with torch.no_grad():
        each = [
            gated_trace(model, tokens(pixels_of(explainer, one))[0], ones, np.zeros((LAYERS, 32)), ones)[1].numpy()
            for one in photos
        ]
    assert relative(means, np.mean(each, axis=0)) <= 1e-5
    sweep = explainer.ablate_each(photo(), TEXTS, head_values=means)
    assert np.abs(sweep.after[2, 1] - without([(2, 1)], values=means.astype(np.float64))).max() <= 1e-5


def test_the_change_depends_on_the_image(explainer, photo):
    first, second = (explainer.ablate_each(photo(seed), TEXTS).change for seed in (0, 1))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.999


def slow_patches(mask, grid, crop):
    rows, columns = grid
    found = np.zeros(grid, bool)
    for i in range(rows):
        for j in range(columns):
            top, bottom = (crop.y0 + (crop.y1 - crop.y0) * k / rows for k in (i, i + 1))
            left, right = (crop.x0 + (crop.x1 - crop.x0) * k / columns for k in (j, j + 1))
            touched = [
                mask[y, x]
                for y in range(crop.height)
                for x in range(crop.width)
                if y + 1 > top + 1e-6 and y < bottom - 1e-6 and x + 1 > left + 1e-6 and x < right - 1e-6
            ]
            found[i, j] = np.mean(touched) > 0.5
    return found


@pytest.mark.parametrize(
    "crop", [CropBox.whole(20, 30), CropBox(0, 20, 5, 25, 20, 30), CropBox(0.5, 3.2, 0, 5, 5, 5), CropBox.whole(2, 3)]
)
def test_a_mask_over_the_photo_is_one_over_the_patches_that_it_mostly_covers(crop):
    mask = np.random.default_rng(3).random((crop.height, crop.width)) < 0.55
    assert (as_patches(mask, (4, 4), crop) == slow_patches(mask, (4, 4), crop)).all()


def test_a_mask_over_the_photo_is_taken(explainer, photo):
    over_photo = np.zeros((60, 90), bool)
    over_photo[:30, 15:45] = True  # the model sees columns 15 to 75
    over_patches = np.zeros((4, 4), bool)
    over_patches[:2, :2] = True
    results = [explainer.intervene(photo(), TEXTS, tokens=mask) for mask in (over_photo, over_patches)]
    assert (results[0].after == results[1].after).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to change"),
        ({"heads": [(4, 0)]}, r"no such block; got 4; allowed: 0..3"),
        ({"heads": [(0, 2)]}, r"no such head"),
        ({"heads": [3]}, r"\(block, head\)"),
        ({"blocks": [(0, "norm")]}, r"attention, mlp"),
        ({"blocks": [True]}, "no such block"),
        ({"tokens": np.zeros((4, 4), bool)}, "no patch in the mask"),
        ({"tokens": np.ones((4, 5), bool)}, r"bool \[4, 4\] over the patches, or \[60, 90\]"),
        ({"tokens": np.ones((4, 4))}, "not a mask"),
        ({"tokens": np.ones((4, 4), bool), "fill": "white"}, "unknown fill"),
        ({"region": np.ones((4, 4), bool)}, "a region of all patches"),
        ({"region": np.ones((4, 4), bool), "heads": [(0, 0)]}, "two interventions"),
        ({"region": np.ones((4, 4), bool), "depth": 4}, "depth"),
        ({"blocks": [0], "head_values": np.zeros((4, 32))}, "head_values"),
        ({"heads": [(0, 0)], "head_values": np.zeros((3, 32))}, r"\(4, 32\)"),
    ],
)
def test_changes_check_themselves(explainer, photo, changes, message):
    with pytest.raises(OptionError, match=message):
        explainer.intervene(photo(), TEXTS, **changes)


def test_a_bundle_without_the_graphs_is_refused_with_the_command(plain, photo):
    with pytest.raises(SignalError, match=r"no graph 'gates'.*--signals"):
        plain.intervene(photo(), TEXTS, heads=[(0, 0)])
    with pytest.raises(SignalError, match=r"no graph 'hidden'"):
        plain.intervene(photo(), TEXTS, region=np.eye(4, dtype=bool))
    with pytest.raises(OptionError, match="parts to ablate"):
        plain.ablate_each(photo(), TEXTS, "tokens")


class Fixed(CpuOptions):
    """An engine that runs batches of four alone, as a captured graph does."""

    def nearest(self, axis, size):
        return 4


def test_an_engine_of_one_size_gets_it(tiny_bundle, explainer, photo, monkeypatch):
    fixed, sizes = Explainer(Bundle.open(tiny_bundle), Fixed(1), check=False), set()
    for graph in ("encode", "gates", "hidden", "tail_2"):
        session = fixed._session(graph)

        def run(inputs, outputs, plain=session.run):
            sizes.update(len(value) for name, value in inputs.items() if name != "head_values")
            return plain(inputs, outputs)

        monkeypatch.setattr(session, "run", run)
    mask = np.eye(4, dtype=bool)
    for changes in ({"heads": [(1, 1)]}, {"tokens": mask, "fill": "mean"}, {"region": mask, "depth": 2}):
        got, expected = (each.intervene(photo(), TEXTS, **changes) for each in (fixed, explainer))
        assert np.abs(got.after - expected.after).max() <= 1e-5
    assert np.abs(fixed.ablate_each(photo(), TEXTS).after - explainer.ablate_each(photo(), TEXTS).after).max() <= 1e-5
    photos = [photo(seed) for seed in range(5)]
    assert relative(fixed.head_means(photos), explainer.head_means(photos)) <= 1e-5
    assert sizes == {4}


def test_images_of_any_size_are_refused(tiny_bundle, photo):
    kept = Explainer.load(tiny_bundle, threads=1, resize="keep")
    with pytest.raises(OptionError, match=r"own size.*keep"):
        kept.intervene(photo(), TEXTS, heads=[(0, 0)])
