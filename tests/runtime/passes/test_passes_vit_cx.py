"""ViT-CX against PyTorch's interpolation, scikit-learn's clustering and open_clip's own model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyeshine.errors import OptionError, SignalError
from eyeshine.methods.vit_cx import VitCx, cluster_masks, complete_linkage, cosine_distances
from oracle import normalised, relative, trace
from tiny import tiny_config, tiny_model

TEXTS = ["a red car", "the dog", "a tree"]


def enlarged(maps, size):
    """[n, h, w] float64 at ``size``, by PyTorch."""
    stacked = torch.from_numpy(np.asarray(maps, np.float64))[None]
    return torch.nn.functional.interpolate(stacked, size, mode="bilinear", align_corners=False)[0].numpy()


def stretched(maps):
    low, high = (getattr(maps, name)(axis=(1, 2), keepdims=True) for name in ("min", "max"))
    return (maps - low) / (high - low)


def by_sklearn(distances, threshold):
    """Clusters in the order of their first members."""
    from sklearn.cluster import AgglomerativeClustering

    settings = {"n_clusters": None, "distance_threshold": threshold, "metric": "precomputed", "linkage": "complete"}
    labels = AgglomerativeClustering(**settings).fit(distances).labels_
    firsts = sorted({label: index for index, label in reversed(list(enumerate(labels)))}.items(), key=lambda x: x[1])
    return [np.flatnonzero(labels == label) for label, _ in firsts]


def slow_masks(features, size, threshold):
    """[K, Y, X] from features [D, h, w]."""
    flat = stretched(enlarged(features, size)).reshape(len(features), -1)
    lengths = np.linalg.norm(flat, axis=1)
    clusters = by_sklearn(1 - flat @ flat.T / np.outer(lengths, lengths), threshold)
    return stretched(np.stack([flat[members].sum(axis=0).reshape(size) for members in clusters]))


@pytest.mark.parametrize("distance", [0.03, 0.05, 0.07])
def test_the_map_is_the_masks_weighed_by_what_they_do(tiny, photo, pixels, mean, ask, distance):
    method = VitCx(distance=distance, noise=0.2, seed=4)
    info = tiny.bundle.manifest.model
    with torch.no_grad():
        model = tiny_model(tiny_config()).double()
        features = trace(model, normalised(pixels()[None], info.mean, info.std))[1]["normed"][-1][0, 1:].numpy()
    masks = slow_masks(features.T.reshape(-1, 4, 4), (32, 32), distance)
    rng, deviation = np.random.default_rng(4), 0.2 * np.array(info.std)[:, None, None]
    frames = [pixels()]
    for mask in masks:
        noise = deviation * rng.standard_normal((3, 32, 32), np.float32) * (1 - mask)
        frames += [mean + (pixels() - mean) * mask + noise, pixels() + noise]
    scores = ask(frames)
    expected = np.zeros((3, 32, 32))
    for p in range(3):
        for k, mask in enumerate(masks):
            score = scores[1 + 2 * k, p] - scores[2 + 2 * k, p] + scores[0, p]
            share = np.divide(
                mask, masks.sum(axis=0), out=np.zeros_like(mask), where=masks.sum(axis=0) > 1e-6 * len(masks)
            )
            expected[p] += score * share / len(masks)
    expected = expected.reshape(3, 4, 8, 4, 8).mean(axis=(2, 4))
    got = tiny.explain(photo(), TEXTS, method=method, max_batch=6)
    assert relative(got.maps[0], expected) <= 1e-4
    assert got.details["passes"]["images"] == [{"clusters": len(masks)}]
    assert got.details["passes"]["encoded"] == 2 * len(masks) + 2
    assert 2 <= len(masks) < 32


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4, 0.8, 5.0])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_clusters_are_those_of_scikit_learn(count, threshold):
    points = np.random.default_rng(count).random((count, 3))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    labels = complete_linkage(distances, threshold)
    if threshold:
        expected = by_sklearn(distances, threshold)
        assert [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)] == [
            members.tolist() for members in expected
        ]
    else:
        assert labels.tolist() == list(range(count))
    assert distances[0, 0] == 0  # what was passed in is left alone


def test_distances_are_those_of_the_enlarged_maps():
    maps = np.random.default_rng(0).random((6, 3, 5))
    flat = enlarged(maps, (17, 40)).reshape(6, -1)
    lengths = np.linalg.norm(flat, axis=1)
    expected = 1 - flat @ flat.T / np.outer(lengths, lengths)
    assert np.abs(cosine_distances(maps.astype(np.float32), (17, 40)) - expected).max() <= 1e-6


def test_channels_without_contrast_make_no_mask_and_no_nan():
    maps = np.random.default_rng(0).random((5, 4, 4)).astype(np.float32)
    with_flat = np.concatenate([maps, np.full((2, 4, 4), 3, np.float32)])
    assert (cluster_masks(with_flat, (32, 32), 0.1) == cluster_masks(maps, (32, 32), 0.1)).all()
    assert cluster_masks(with_flat[5:], (32, 32), 0.1).shape == (0, 4, 4)


def test_the_map_changes_with_the_image_and_the_text(tiny, photo):
    first, second = (tiny.explain(photo(seed), TEXTS, method="vit_cx").maps[0] for seed in (0, 1))
    assert np.corrcoef(first[0].ravel(), second[0].ravel())[0, 1] < 0.99
    assert np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1] < 0.99


def test_a_bundle_without_the_graph_is_refused_with_the_command(oblong, photo):
    with pytest.raises(SignalError, match=r"no graph 'gates'.*eyeshine export.*--signals"):
        oblong.explain(photo(), TEXTS, method=VitCx())


@pytest.mark.parametrize("settings", [{"distance": 0}, {"noise": -1}, {"noise": True}, {"seed": 1.5}])
def test_settings_check_themselves(settings):
    with pytest.raises(OptionError, match=next(iter(settings))):
        VitCx(**settings)
