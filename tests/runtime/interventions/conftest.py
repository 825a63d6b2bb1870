"""A bundle whose parts can be taken away, and open_clip's own model for comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine import Explainer

TEXTS = ["a red car", "the dog", "a tree"]


@pytest.fixture(scope="session")
def explainer(tiny_bundle):
    """Four by four patches of 8 pixels, four blocks of two heads, with the groups "gates" and "hidden"."""
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The same model without these groups."""
    from eyeshine_export.write import export_bundle
    from tiny import tiny_source

    path = tmp_path_factory.mktemp("bundles") / "plain"
    export_bundle(tiny_source(), path)
    return Explainer.load(path, threads=1)


@pytest.fixture(scope="session")
def model():
    """open_clip's model of the same weights, float64."""
    from tiny import tiny_config, tiny_model

    return tiny_model(tiny_config()).double()


@pytest.fixture(scope="session")
def tokens(explainer, model):
    """open_clip's tokens before each block, list of [1, T, D], for the model's input [3, Y, X]."""
    from oracle import normalised, trace

    info = explainer.bundle.manifest.model

    def kept(pixels):
        with torch.no_grad():
            return trace(model, normalised(np.asarray(pixels)[None], info.mean, info.std))[1]["input"]

    return kept


@pytest.fixture(scope="session")
def cosines(explainer):
    """[P] of a unit embedding and ``TEXTS``, float64."""
    texts = explainer.encode_texts(TEXTS).astype(np.float64)
    return lambda embedding: F.normalize(embedding, dim=-1).detach().numpy() @ texts.T


@pytest.fixture(scope="session")
def onwards(model):
    """open_clip's embedding [E] from tokens [1, T, D] before a block on."""

    def run(x, first=0):
        with torch.no_grad():
            for block in list(model.visual.transformer.resblocks)[first:]:
                x = block(x)
            return (model.visual.ln_post(x[:, 0]) @ model.visual.proj)[0]

    return run
