"""NIB through a bundle, against integrated gradients taken by autograd on open_clip's own blocks."""

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.errors import OptionError, SignalError
from eyeshine.images import load_image
from eyeshine.methods.nib import Nib
from oracle import cosines, normalised, relative, trace
from tiny import tiny_config, tiny_model, tiny_source

TEXTS = ["a red car", "the dog", "a tree"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_config()).double()


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def tokens_before(explainer, model, image, blocks):
    info = explainer.bundle.manifest.model
    pixels = explainer.preprocess.prepare(load_image(image)).pixels
    with torch.no_grad():
        return trace(model, normalised(pixels[None], info.mean, info.std))[1]["input"][-blocks]


def score(model, state, blocks, text):
    """c [n, P] of states [n, T, D] after the last ``blocks`` blocks of open_clip's tower."""
    for block in list(model.visual.transformer.resblocks)[-blocks:]:
        state = block(state)
    return cosines(model.visual.ln_post(state[:, 0]) @ model.visual.proj, text)


def integrated(explainer, model, image, text, steps, blocks):
    """Evidence of every token, one point and one backward pass at a time."""
    tokens = tokens_before(explainer, model, image, blocks)
    total = torch.zeros_like(tokens)
    for step in range(1, steps + 1):
        point = (tokens * step / steps).requires_grad_()
        total += torch.autograd.grad(score(model, point, blocks, text[None])[0, 0], point)[0]
    return (tokens * total / steps).sum(-1)[0]


@pytest.mark.parametrize(("steps", "blocks"), [(10, 3), (1, 3), (7, 2)])
def test_the_map_is_that_of_autograd_for_every_text(explainer, model, steps, blocks):
    found = explainer.explain([photo(0), photo(1)], TEXTS, method=Nib(steps=steps, blocks=blocks))
    vectors = torch.from_numpy(explainer.encode_texts(TEXTS)).double()
    for image in range(2):
        expected = [integrated(explainer, model, photo(image), text, steps, blocks)[1:] for text in vectors]
        assert relative(found.maps[image].reshape(3, -1), torch.stack(expected).numpy()) <= 1e-4
    assert (np.abs(found.maps[0] - found.maps[1]).max((1, 2)) > 1e-3).all()


def test_all_tokens_together_approach_what_the_image_adds_to_a_tower_without_tokens(explainer, model):
    """Completeness of integrated gradients, so that the derivative is the right one: no factor k/n in it."""
    text = torch.from_numpy(explainer.encode_texts(TEXTS[:1])).double()
    tokens = tokens_before(explainer, model, photo(0), 3)

    def evidence(steps):
        points = (tokens * torch.arange(1, steps + 1)[:, None, None] / steps).requires_grad_()
        slope = torch.autograd.grad(score(model, points, 3, text).sum(), points)[0]
        return float((tokens * slope).sum() / steps)

    with torch.no_grad():
        rise = float(score(model, tokens, 3, text) - score(model, torch.zeros_like(tokens), 3, text))
    assert evidence(10) == pytest.approx(float(integrated(explainer, model, photo(0), text[0], 10, 3).sum()))
    off = {steps: abs(evidence(steps) - rise) / abs(rise) for steps in (10, 2000)}
    assert off[2000] <= 0.05 < 0.2 < off[10]


def test_a_contrast_is_the_difference_of_the_texts(explainer):
    plain = explainer.explain(photo(0), TEXTS[:2], method=Nib()).maps[0]
    against = explainer.explain(photo(0), TEXTS[:1], method=Nib(), against=TEXTS[1:2]).maps[0]
    assert relative(against[0], plain[0] - plain[1]) <= 1e-4


def test_a_batch_smaller_than_the_points_changes_nothing(explainer):
    whole, small = (explainer.explain(photo(0), TEXTS, method=Nib(steps=7), max_batch=batch).maps for batch in (32, 3))
    assert relative(small, whole) <= 1e-5


def test_positive_drops_the_negative_values(explainer):
    signed, positive = (
        explainer.explain(photo(0), TEXTS, method=Nib(positive=positive)).maps for positive in (False, True)
    )
    assert (positive == np.maximum(signed, 0)).all()
    assert signed.min() < 0 < signed.max()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"blocks": 4}, {"blocks": 1}, {"steps": 2.0}, {"positive": 1}])
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(OptionError, match=next(iter(settings))):
        Nib(**settings)


def test_a_bundle_without_its_graphs_is_refused(tmp_path):
    from eyeshine_export.write import export_bundle

    export_bundle(tiny_source(), tmp_path / "plain")
    with pytest.raises(SignalError, match=r"no graph 'hidden'.*--signals"):
        Explainer.load(tmp_path / "plain", threads=1).explain(photo(0), TEXTS, method=Nib())
