"""What tests of concept vectors share: a tiny explainer, images, and open_clip's own blocks in float64."""

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.images import load_image
from oracle import cosines, normalised, trace
from tiny import tiny_config, tiny_model

TEXTS = ["a red car", "the dog", "a tree"]


@pytest.fixture(scope="session")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def photos():
    """n random photos; those of a ``tint`` have more of one colour."""

    def draw(count, seed=0, tint=0):
        random = np.random.default_rng(seed)
        found = random.integers(0, 200, (count, 40, 40, 3), dtype=np.uint8)
        found[..., 0] += np.uint8(tint)
        return list(found)

    return draw


class Tower:
    """open_clip's blocks, one image at a time."""

    def __init__(self, explainer):
        self.explainer, self.model = explainer, tiny_model(tiny_config()).double().requires_grad_(False)
        self.text = torch.from_numpy(explainer.encode_texts(TEXTS)).double()

    def tokens(self, image, blocks):
        info = self.explainer.bundle.manifest.model
        pixels = self.explainer.preprocess.prepare(load_image(image)).pixels[None]
        return trace(self.model, normalised(pixels, info.mean, info.std))[1]["input"][-blocks]

    def scores(self, tokens, blocks):
        """[n, P]."""
        for block in list(self.model.visual.transformer.resblocks)[-blocks:]:
            tokens = block(tokens)
        return cosines(self.model.visual.ln_post(tokens[:, 0]) @ self.model.visual.proj, self.text)

    def activation(self, image, blocks, at):
        tokens = self.tokens(image, blocks)[0]
        return (tokens[0] if at == "class" else tokens[1:].mean(0)).numpy()

    def score_when_moved(self, image, shift, blocks, at):
        """[P], the activation moved by a shift [D]."""
        tokens = self.tokens(image, blocks).clone()
        tokens[:, slice(0, 1) if at == "class" else slice(1, None)] += shift
        return self.scores(tokens, blocks)[0]

    def slope(self, image, blocks, at):
        """[P, D]: the derivative by a shift, at none."""
        shift = torch.zeros(self.model.visual.ln_post.weight.numel(), dtype=torch.float64, requires_grad=True)
        scores = self.score_when_moved(image, shift, blocks, at)
        return torch.stack([torch.autograd.grad(score, shift, retain_graph=True)[0] for score in scores]).numpy()


@pytest.fixture(scope="session")
def tower(explainer):
    return Tower(explainer)


@pytest.fixture(scope="session")
def roads(tmp_path_factory):
    """The embedded model, exported with what concept vectors read."""
    from eyeshine.bundle import default_bundle
    from eyeshine_export.roads.ship import again
    from eyeshine_export.write import ExportOptions

    folder = tmp_path_factory.mktemp("bundles") / "roads"
    again(default_bundle(), folder, ExportOptions(signals=("hidden",)))
    return Explainer.load(folder, threads=1)
