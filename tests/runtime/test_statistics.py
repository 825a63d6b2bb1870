"""Attention statistics against slow loops, scipy and cases whose answer is known."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from eyeshine import Explainer, roads
from eyeshine.cli import main
from eyeshine.errors import OptionError, SignalError
from eyeshine.statistics import (
    agreement,
    consistency,
    distance,
    entropy_bits,
    head_statistics,
    overlap,
    rank_correlation,
    share_inside,
)
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import normalised, trace
from tiny import tiny_config, tiny_model, tiny_source

TEXTS = ["a red car", "the dog", "a tree"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def embedded():
    return Explainer.load(threads=1)


def photo(seed: int = 0, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Distributions


def test_entropy_of_one_patch_of_all_alike_and_of_any():
    assert entropy_bits(np.eye(8)[3]) == 0
    assert entropy_bits(np.full((2, 8), 0.3)) == pytest.approx([3, 3])
    weights = np.random.default_rng(0).random((3, 4, 9))
    np.testing.assert_allclose(entropy_bits(weights), stats.entropy(weights, base=2, axis=-1))


def test_distance_is_the_mean_over_patches_by_hand():
    random = np.random.default_rng(0)
    rows, columns = 3, 5
    weights = random.random((2, 15))
    cell = (8.0, 4.0)
    for b in range(2):
        p = weights[b] / weights[b].sum()
        places = [(r * cell[0], c * cell[1]) for r in range(rows) for c in range(columns)]
        centre = [sum(p[i] * places[i][axis] for i in range(15)) for axis in (0, 1)]
        peak = places[int(np.argmax(p))]
        for around, point in (("centre", centre), ("peak", peak), ((1.0, 2.0), (8.0, 8.0))):
            expected = sum(p[i] * math.dist(places[i], point) for i in range(15))
            got = distance(weights, (rows, columns), around=around, cell=cell)[b]
            assert got == pytest.approx(expected)
    assert distance(np.eye(15), (3, 5)) == pytest.approx(np.zeros(15))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(4), "all 0"),
        (np.array([1.0, -0.1]), "no distribution; got smallest -0.1; .*finite, from 0"),
        (np.array([1.0, np.nan]), "got smallest nan; .*finite, from 0"),
        (np.ones((2, 0)), r"got shape \[2, 0\]"),
    ],
)
def test_what_is_no_distribution_is_refused(weights, message):
    with pytest.raises(OptionError, match=message):
        entropy_bits(weights)


def test_a_point_or_grid_that_is_not_there():
    for point in ("middle", (2, 0), (0, -1), (0, math.nan), (0, "1"), (0,), None):
        with pytest.raises(OptionError, match=r"unknown point.*\(row, column\) from \(0, 0\) to \(1, 1\)"):
            distance(np.ones(4), (2, 2), around=point)
    with pytest.raises(OptionError, match="grid of patches"):
        distance(np.ones(4), (2, 3))


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties):
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = random.standard_normal((2, 6, 7))
        if ties:
            first, second = np.round(first), np.maximum(second, 0)
        expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
        assert rank_correlation(first, second) == pytest.approx(expected)
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5)))


# Heads


@pytest.mark.parametrize("layers", [1, 3])
def test_statistics_of_heads_are_those_of_open_clips_attention(explainer, layers):
    images = [photo(1), photo(2)]
    got = head_statistics(explainer, images, layers=layers)
    info = explainer.bundle.manifest.model
    pixels = np.stack([explainer.preprocess.prepare(image).pixels for image in images])
    with torch.no_grad():
        kept = trace(tiny_model(tiny_config()).double(), normalised(pixels, info.mean, info.std))[1]["attention"]
    assert got.blocks == tuple(range(4 - layers, 4))
    for b, k, h in np.ndindex(2, layers, 2):
        row = kept[got.blocks[k]][b, h, 0].numpy()
        assert got.class_share[b, k, h] == pytest.approx(row[0], rel=1e-4)
        p = row[1:] / row[1:].sum()
        assert got.entropy_bits[b, k, h] == pytest.approx(stats.entropy(p, base=2), rel=1e-4)
        centre = (sum(p[i] * (i // 4) for i in range(16)), sum(p[i] * (i % 4) for i in range(16)))
        spread = sum(p[i] * math.dist((i // 4, i % 4), centre) for i in range(16))
        assert got.distance_patches[b, k, h] == pytest.approx(spread, rel=1e-4)
        assert got.distance_px[b, k, h] == pytest.approx(8 * spread, rel=1e-4)
    rows = got.record(1)
    assert len(rows) == layers * 2
    assert rows[-1]["block"] == 3
    assert rows[-1]["entropy_bits"] == got.entropy_bits[1, -1, -1]


def test_blocks_that_the_bundle_does_not_explain(explainer):
    with pytest.raises(SignalError, match="--layers 4"):
        head_statistics(explainer, photo(), layers=4)
    for layers in (0, -1, True, 1.0):
        with pytest.raises(OptionError, match=r"layers is a whole number; got .*1\.\.64"):
            head_statistics(explainer, photo(), layers=layers)


def test_heads_at_any_size_are_those_of_the_photos_own_grid(tmp_path_factory):
    """48 x 88 pixels are 6 x 11 patches; attention is open_clip's, its position embeddings resampled by torch."""
    folder = tmp_path_factory.mktemp("sizes") / "any"
    export_bundle(tiny_source(), folder, ExportOptions(signals=("sizes",)))
    kept = Explainer.load(folder, threads=1, resize="keep")
    image, info = photo(1, 50, 90), kept.bundle.manifest.model
    got = head_statistics(kept, image, around=(5.0, 10.0))
    pixels = kept.preprocess.prepare(image).pixels[None]
    with torch.no_grad():
        model = tiny_model(tiny_config()).double()
        own = model.visual.positional_embedding
        patches = F.interpolate(own[1:].T.reshape(1, -1, 4, 4), (6, 11), mode="bicubic", align_corners=False)
        model.visual.positional_embedding = torch.nn.Parameter(torch.cat([own[:1], patches.flatten(2)[0].T]))
        kept_attention = trace(model, normalised(pixels, info.mean, info.std))[1]["attention"][-1][0]
    assert kept_attention.shape == (2, 67, 67)
    for head, row in enumerate(kept_attention[:, 0].double().numpy()):
        p = row[1:] / row[1:].sum()
        far = sum(p[i] * math.dist((i // 11, i % 11), (5, 10)) for i in range(66))
        assert got.entropy_bits[0, 0, head] == pytest.approx(stats.entropy(p, base=2), rel=1e-4)
        assert got.distance_patches[0, 0, head] == pytest.approx(far, rel=1e-4)
        assert got.distance_px[0, 0, head] == pytest.approx(8 * far, rel=1e-4)


# Maps


def test_consistency_is_1_where_the_method_does_not_read_the_text(explainer):
    alike = consistency(explainer.explain(photo(), TEXTS, method="attention"))
    np.testing.assert_allclose(alike, np.ones((3, 3)))
    result = explainer.explain(photo(), TEXTS)
    found = consistency(result)
    for p, q in np.ndindex(3, 3):
        expected = stats.spearmanr(result.maps[0, p].ravel(), result.maps[0, q].ravel()).statistic
        assert found[p, q] == pytest.approx(expected)
    assert found[0, 1] < 0.99


def test_two_bundles_agree_with_themselves_and_less_with_each_other(explainer, embedded):
    """A 4 x 4 and a 14 x 14 grid, compared on the photo."""
    images, texts = [photo(1), photo(2, 60, 50)], ["a car", "a dog"]
    first, second = explainer.explain(images, texts), embedded.explain(images, texts)
    np.testing.assert_allclose(agreement(first, first), np.ones((2, 2)))
    between = agreement(first, second)
    assert between.shape == (2, 2)
    assert (np.abs(between) < 0.9).all()
    np.testing.assert_allclose(between, agreement(second, first))
    with pytest.raises(OptionError, match="different requests"):
        agreement(first, embedded.explain(images, ["a car", "a tree"]))
    for others in (images[:1], images[::-1], [photo(1), photo(3, 60, 50)]):
        with pytest.raises(OptionError, match="the same photos and texts in both"):
            agreement(first, embedded.explain(others, texts))
    for image in (2, -1, None):
        with pytest.raises(OptionError, match=r"image is a whole number; got .*allowed: 0\.\.1"):
            consistency(first, image)
        with pytest.raises(OptionError, match=r"image is a whole number"):
            share_inside(first, (0, 0, 5, 5), image)
        with pytest.raises(OptionError, match=r"image is a whole number"):
            overlap(first, np.ones((40, 50)), image)


def test_the_share_of_heat_inside_a_box_and_a_gaze_map(explainer):
    result = explainer.explain(photo(3), TEXTS)
    heat = np.maximum(result.heatmap(0, "shared").astype(float), 0)
    box = (5, 8, 30, 33)
    gaze = np.random.default_rng(0).random((40, 50))
    for p in range(3):
        share = heat[p] / heat[p].sum()
        assert share_inside(result, box)[p] == pytest.approx(share[8:33, 5:30].sum(), rel=1e-4)
        assert share_inside(result, gaze)[p] == pytest.approx((share * gaze / gaze.max()).sum(), rel=1e-4)
        assert overlap(result, gaze)[p] == pytest.approx(np.minimum(share, gaze / gaze.sum()).sum(), rel=1e-4)
        assert overlap(result, share)[p] == pytest.approx(1, rel=1e-4)
    assert share_inside(result, (0, 0, 50, 40)) == pytest.approx(np.ones(3))
    half = share_inside(result, (5, 8, 30.5, 33)) - share_inside(result, box)
    assert half == pytest.approx((share_inside(result, (5, 8, 31, 33)) - share_inside(result, box)) / 2)


@pytest.mark.parametrize(
    "region", [(5, 5, 5, 9), (-1, 0, 5, 5), (0, 0, 51, 40), np.zeros((40, 50)), np.ones((4, 5)), -np.ones((40, 50))]
)
def test_regions_that_are_none_are_refused(explainer, region):
    with pytest.raises(OptionError, match=r"box|region"):
        share_inside(explainer.explain(photo(3), TEXTS[:1]), region)


def test_a_flat_map_correlates_with_nothing_and_its_json_says_so(tmp_path, capsys, monkeypatch):
    """FM-G-CAM leaves a text that wins nowhere without a map; JSON has no NaN."""
    from PIL import Image

    from eyeshine.methods import FmGCam

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(FmGCam, "signals", frozenset({"class_attention"}))
    monkeypatch.setattr(FmGCam, "maps", lambda self, signals, prompts: np.zeros((1, prompts, 196), np.float32))
    path = tmp_path / "scene.png"
    Image.fromarray(photo(1, 112, 112)).save(path)
    base = ["statistics", str(path), "-t", "a car", "-t", "a tree", "--threads", "1", "-m", "fm_g_cam"]
    with pytest.raises(SystemExit) as ended:
        main([*base, "--json"])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail)["consistency"] == [[None, None], [None, None]]
    with pytest.raises(SystemExit):
        main(base)
    assert capsys.readouterr().out.count("rank correlation with the others none (a flat map)") == 2


def test_the_statistics_of_a_scene_on_the_command_line(tmp_path, capsys, monkeypatch, tiny_bundle):
    from PIL import Image

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    path = tmp_path / "scene.png"
    Image.fromarray(roads.render(seed=roads.HELD_OUT_FROM + 1).image).save(path)
    base = ["statistics", str(path), "-t", "a car", "-t", "a tree", "--threads", "1", "--box", "10,10,100,100"]
    with pytest.raises(SystemExit) as ended:
        main([*base, "--json", "--layers", "2", "--other", str(tiny_bundle)])
    assert not ended.value.code
    record = json.loads(capsys.readouterr().out)
    assert len(record["heads"]) == 12
    assert {row["block"] for row in record["heads"]} == {4, 5}
    assert np.shape(record["consistency"]) == (2, 2)
    assert all(0 < share < 1 for share in record["share_inside"])
    assert len(record["agreement"]) == 2
    with pytest.raises(SystemExit):
        main(base)
    out = capsys.readouterr().out
    assert out.count("entropy") == 6
    assert out.count("inside the box") == 2
    assert out.count("rank correlation with the others +") + out.count("rank correlation with the others -") == 2
    with pytest.raises(SystemExit):
        main([*base[:4], "--threads", "1"])  # one text, no box: nothing to say of its map
    assert "a car" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*base[:-1], "1,2"])
    assert ended.value.code == 2
    assert "--box takes four numbers" in capsys.readouterr().err
