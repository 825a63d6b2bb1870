"""Saliency and Gradient x Input against autograd through open_clip, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.errors import OptionError
from eyeshine.methods import BlockSignals, Saliency
from eyeshine.methods.configure import configure
from oracle import cosines, relative
from tiny import tiny_config, tiny_model

TEXTS = ["a red car", "the dog"]
REDUCE = {"max": lambda x: np.abs(x).max(0), "sum": lambda x: np.abs(x).sum(0), "net": lambda x: x.sum(0)}


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def patch_means(pixels: np.ndarray, grid: tuple[int, int], patch: tuple[int, int]) -> np.ndarray:
    """[Y, X] -> [N], one patch after the other."""
    return np.array([
        np.mean([pixels[y * patch[0] + dy, x * patch[1] + dx] for dy in range(patch[0]) for dx in range(patch[1])])
        for y in range(grid[0]) for x in range(grid[1])
    ])  # fmt: skip


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize("times_input", [False, True])
def test_reductions_over_channels_and_pixels(reduce, times_input):
    random = np.random.default_rng(0)
    grid, patch = (2, 3), (4, 2)
    gradient = random.standard_normal((2, 3, 3, 9, 7)).astype(np.float32)  # a row and a column fill no patch
    image = random.standard_normal((2, 3, 9, 7)).astype(np.float32)
    signals = BlockSignals(pixel_gradient=gradient, centred_pixels=image, grid=grid, patch=patch)
    method = Saliency(reduce=reduce, times_input=times_input)
    got = method.maps(signals, 3)
    assert got.shape == (2, 3, 6)
    for b in range(2):
        for p in range(3):
            values = gradient[b, p].astype(np.float64) * (image[b] if times_input else 1)
            assert relative(got[b, p], patch_means(REDUCE[reduce](values), grid, patch)) <= 1e-4
    tensors = BlockSignals(
        pixel_gradient=torch.from_numpy(gradient), centred_pixels=torch.from_numpy(image), grid=grid, patch=patch
    )
    assert relative(method.maps(tensors, 3).numpy(), got) <= 1e-5


def autograd(explainer: Explainer, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients [P, 3, Y, X] and the image [3, Y, X], both of open_clip's own (normalised) input."""
    info, model = explainer.bundle.manifest.model, tiny_model(tiny_config()).double()
    mean, std = (torch.tensor(x, dtype=torch.float64).reshape(3, 1, 1) for x in (info.mean, info.std))
    leaf = (torch.from_numpy(explainer.preprocess.prepare(image).pixels).double() - mean) / std
    leaf.requires_grad_()
    similarity = cosines(model.encode_image(leaf[None]), torch.from_numpy(explainer.encode_texts(TEXTS)).double())[0]
    gradient = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in similarity])
    return gradient.numpy(), leaf.detach().numpy()


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize("times_input", [False, True])
def test_maps_of_an_exported_bundle_are_autograds(explainer, reduce, times_input):
    image, info = photo(1), explainer.bundle.manifest.model
    result = explainer.explain(image, TEXTS, method=Saliency(reduce=reduce, times_input=times_input))
    gradient, leaf = autograd(explainer, image)
    std = np.reshape(info.std, (3, 1, 1))
    for p in range(2):
        # Gradient x Input does not depend on the scale of the input; the gradient does: it is that of 0..1.
        values = gradient[p] * leaf if times_input else gradient[p] / std
        expected = patch_means(REDUCE[reduce](values), result.patch_grid, info.patch_size)
        assert relative(result.maps[0, p].reshape(-1), expected) <= 1e-4
    assert result.engine["graph"] == "pixels"
    assert reduce == "net" or (result.maps >= 0).all()


def test_the_map_changes_with_image_and_text(explainer):
    one, other = (explainer.explain(photo(seed), TEXTS, method="saliency").maps for seed in (1, 2))
    assert relative(other, one) > 0.1
    assert relative(one[:, 1], one[:, 0]) > 0.1


def test_a_difference_of_texts_has_the_difference_of_the_gradients(explainer):
    net = Saliency(reduce="net")
    whole = explainer.explain(photo(1), TEXTS, method=net).maps
    against = explainer.explain(photo(1), TEXTS, method=net, against="rest").maps
    assert relative(against[:, 0], whole[:, 0] - whole[:, 1]) <= 1e-4


def test_an_unknown_reduction_is_refused():
    with pytest.raises(OptionError, match="max, sum, net"):
        configure("saliency", {"reduce": "mean"})
