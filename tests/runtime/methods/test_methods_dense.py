"""MaskCLIP, SCLIP, ClearCLIP, NACLIP: cosines of patch features and texts, down to open_clip's own modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.errors import OptionError
from eyeshine.methods import METHODS, BlockSignals
from eyeshine.methods.configure import configure
from oracle import normalised, relative, trace
from tiny import tiny_config, tiny_model

NAMES = ["maskclip", "sclip", "clearclip", "naclip"]
TEXTS = ["a red car", "the dog", "a small house"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8)], ids=["for all images", "for each image"])
def test_a_map_is_the_product_of_patch_and_target(name, shape):
    random = np.random.default_rng(0)
    features, target = (random.standard_normal(size).astype(np.float32) for size in ((2, 6, 8), shape))
    got = METHODS[name].maps(BlockSignals(features=features, target=target), 3)
    for b in range(2):
        for p in range(3):
            for i in range(6):
                vector = target[p] if len(shape) == 2 else target[b, p]
                product = sum(float(f) * float(t) for f, t in zip(features[b, i], vector, strict=True))
                assert got[b, p, i] == pytest.approx(product, abs=1e-5)
    tensors = BlockSignals(features=torch.from_numpy(features), target=torch.from_numpy(target))
    assert relative(METHODS[name].maps(tensors, 3).numpy(), got) <= 1e-5


def expected_of(explainer: Explainer, name: str, image: np.ndarray, residual: bool) -> np.ndarray:
    """[P, N] from open_clip's modules: the last block run again with the other attention."""
    info = explainer.bundle.manifest.model
    model = tiny_model(tiny_config()).double()
    pixels = normalised(explainer.preprocess.prepare(image).pixels[None], info.mean, info.std)
    with torch.no_grad():
        kept = trace(model, pixels)[1]
        block = model.visual.transformer.resblocks[-1]
        query, key, value = (
            kept[part][-1][0].unflatten(-1, (info.heads, -1)).transpose(0, 1) for part in ("query", "key", "value")
        )
        own = lambda x: x @ x.transpose(1, 2) / x.shape[-1] ** 0.5
        distance = torch.cdist(*[torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()] * 2)
        window = torch.zeros(17, 17).double()
        window[1:, 1:] = torch.exp(-(distance**2) / 50)
        attention = {
            "maskclip": torch.eye(17).double().expand(info.heads, -1, -1),
            "sclip": own(query).softmax(-1) + own(key).softmax(-1),
            "clearclip": own(query).softmax(-1),
            "naclip": (own(key) + window).softmax(-1),
        }[name]
        out = block.attn.out_proj((attention @ value).transpose(0, 1).flatten(1))
        if residual:
            y = kept["input"][-1][0] + out
            out = y + block.mlp(block.ln_2(y))
        features = model.visual.ln_post(out) @ model.visual.proj
        features = torch.nn.functional.normalize(features, dim=-1)[1:].numpy()
    return explainer.encode_texts(TEXTS).astype(np.float64) @ features.T


@pytest.mark.parametrize(
    ("name", "residual"),
    [("maskclip", True), ("maskclip", False), ("sclip", True), ("clearclip", False), ("naclip", False)],
)
def test_maps_of_an_exported_bundle_are_open_clips(explainer, name, residual):
    image = photo(1)
    settings = {"residual": residual} if name == "maskclip" else {}
    result = explainer.explain(image, TEXTS, method=configure(name, settings))
    assert result.engine["graph"] == "patch_features"
    assert relative(result.maps[0].reshape(3, -1), expected_of(explainer, name, image, residual)) <= 1e-4
    deployed = explainer.explain(image, TEXTS, method="grad_eclip").similarities
    assert np.allclose(result.similarities, deployed, atol=1e-6)  # the class token's are the deployed model's


@pytest.mark.parametrize("name", NAMES)
def test_the_map_changes_with_image_and_text(explainer, name):
    one, other = (explainer.explain(photo(seed), TEXTS, method=name).maps for seed in (1, 2))
    assert relative(other, one) > 0.1
    assert relative(one[:, 1], one[:, 0]) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_difference_of_texts_is_the_difference_of_their_maps(explainer, name):
    whole = explainer.explain(photo(1), TEXTS, method=name).maps
    against = explainer.explain(photo(1), TEXTS, method=name, against="rest").maps
    assert relative(against[:, 0], whole[:, 0] - whole[:, 1:].mean(axis=1)) <= 1e-5


def test_there_is_nothing_to_set():
    with pytest.raises(OptionError, match="none at all"):
        configure("naclip", {"std": 3})
