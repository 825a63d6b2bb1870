"""M2IB through a bundle, against a slow one: KL and Adam of torch, autograd through open_clip's own blocks."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from eyeshine import Explainer
from eyeshine.errors import OptionError
from eyeshine.images import load_image
from eyeshine.methods.m2ib import Adam, M2ib, information, information_slope
from oracle import cosines, normalised, relative, trace
from tiny import tiny_config, tiny_model

TEXTS = ["a red car", "the dog"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def model():
    model = tiny_model(tiny_config()).double()
    return model.requires_grad_(False)


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def slow_map(explainer, model, image, target, options, length=1.0):
    """One copy after the other, KL by torch, every step with its backward pass; the noise is the method's."""
    info = explainer.bundle.manifest.model
    pixels = explainer.preprocess.prepare(load_image(image)).pixels
    with torch.no_grad():
        tokens = trace(model, normalised(pixels[None], info.mean, info.std))[1]["input"][-options.blocks][0]
    random = np.random.default_rng(options.seed)
    alpha = torch.full_like(tokens, options.start).requires_grad_()
    adam = torch.optim.Adam([alpha], lr=options.rate)
    for _ in range(options.steps):
        drawn = random.standard_normal((options.copies, *tokens.shape), np.float32)
        share = torch.sigmoid(alpha)
        divergence = kl_divergence(Normal(share * tokens, 1 - share), Normal(0.0, 1.0))
        scores = []
        for noise in torch.from_numpy(drawn).double():
            state = (share * tokens + (1 - share) * noise)[None]
            for block in list(model.visual.transformer.resblocks)[-options.blocks :]:
                state = block(state)
            embedding = model.visual.ln_post(state[:, 0]) @ model.visual.proj
            scores.append(length * cosines(embedding, target[None])[0, 0])
        loss = options.beta * divergence.mean() - torch.stack(scores).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return divergence.detach().nansum(-1)[1:].numpy()  # of the last forward pass, before its step


@pytest.mark.parametrize(
    "settings", [{}, {"steps": 4, "copies": 3, "blocks": 3, "seed": 5}, {"beta": 0.0, "blocks": 1, "rate": 0.3}]
)
def test_the_map_is_that_of_the_slow_one(explainer, model, settings):
    options = M2ib(**settings)
    found = explainer.explain([photo(0), photo(1)], TEXTS, method=options).maps
    vectors = torch.from_numpy(explainer.encode_texts(TEXTS)).double()
    for image in range(2):
        expected = np.stack([slow_map(explainer, model, photo(image), vector, options) for vector in vectors])
        assert relative(found[image].reshape(2, -1), expected) <= TOLERANCE
    assert found.min() >= 0
    assert (np.abs(found[0] - found[1]).max((1, 2)) > 1).all()
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.1


def test_a_contrast_is_bottlenecked_as_what_it_is(explainer, model):
    """Its length counts: the score is a difference of cosines, not the cosine with their difference."""
    options = M2ib(steps=6)
    found = explainer.explain(photo(0), TEXTS[:1], method=options, against=TEXTS[1:]).maps[0, 0]
    one, other = torch.from_numpy(explainer.encode_texts(TEXTS)).double()
    expected = slow_map(explainer, model, photo(0), one - other, options, length=float((one - other).norm()))
    assert relative(found.reshape(-1), expected) <= TOLERANCE


def test_the_map_does_not_depend_on_the_batch(explainer):
    whole = explainer.explain([photo(1), photo(0)], TEXTS, method=M2ib()).maps[1]
    small = explainer.explain(photo(0), TEXTS[::-1], method=M2ib(), max_batch=3).maps[0, ::-1]
    assert relative(small, whole) <= TOLERANCE


def test_one_step_looks_at_nothing_and_seeds_differ(explainer):
    first = explainer.explain(photo(0), TEXTS, method=M2ib(steps=1)).maps
    assert (first[0, 0] == first[0, 1]).all()
    seeds = [explainer.explain(photo(0), TEXTS[:1], method=M2ib(seed=seed)).maps for seed in (0, 0, 1)]
    assert (seeds[0] == seeds[1]).all()
    assert np.abs(seeds[0] - seeds[2]).max() > 0.1


def test_adam_is_torchs():
    random = np.random.default_rng(0)
    start = random.standard_normal((5, 7)).astype(np.float32)
    gradients = random.standard_normal((12, 5, 7)).astype(np.float32) * 10.0 ** random.integers(-9, 3, (12, 5, 7))
    ours, theirs = start.copy(), torch.from_numpy(start).double().requires_grad_()
    adam, optimiser = Adam(ours, 0.7), torch.optim.Adam([theirs], lr=0.7)
    for gradient in gradients.astype(np.float32):
        adam.step(gradient)
        theirs.grad = torch.from_numpy(gradient).double()
        optimiser.step()
    assert relative(ours, theirs.detach().numpy()) <= 1e-5


def test_information_and_its_slope_are_torchs():
    random = np.random.default_rng(0)
    alpha = random.uniform(-12, 12, (6, 9)).astype(np.float32)
    tokens = (5 * random.standard_normal((6, 9))).astype(np.float32)
    a = torch.from_numpy(alpha).double().requires_grad_()
    share = torch.sigmoid(a)
    expected = kl_divergence(Normal(share * torch.from_numpy(tokens), 1 - share), Normal(0.0, 1.0))
    assert relative(information(alpha, tokens), expected.detach().numpy()) <= 1e-5
    slope = torch.autograd.grad(expected.sum(), a)[0].numpy()
    assert relative(information_slope(alpha, tokens), slope) <= 1e-5


def test_information_is_finite_where_all_is_let_through_and_where_nothing_is():
    alpha = np.array([-300, -60, 0, 60, 80], np.float32)
    found = information(alpha, np.ones(5, np.float32))
    assert np.isfinite(found).all()
    assert found == pytest.approx([0, 0, np.log(2) - 0.25, 60, 80], abs=1e-6)
    assert np.isfinite(information_slope(alpha, np.ones(5, np.float32))).all()


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"copies": 1.5}, {"beta": -0.1}, {"rate": 0}, {"start": 99}, {"blocks": 4}, {"seed": -1}]
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(OptionError, match=next(iter(settings))):
        M2ib(**settings)
