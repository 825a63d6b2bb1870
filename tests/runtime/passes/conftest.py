"""Models, and what open_clip's own model says of an image in float64, that tests of methods by passes share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

TEXTS = ["a red car", "the dog", "a tree"]


@pytest.fixture(scope="session")
def ask(tiny):
    """Cosines [n, P] in float64 of images [n, 3, Y, X] and ``TEXTS``, by open_clip's own modules, not by a graph."""
    from oracle import cosines, normalised, trace
    from tiny import tiny_config, tiny_model

    model = tiny_model(tiny_config()).double()
    info = tiny.bundle.manifest.model
    text = torch.from_numpy(tiny.encode_texts(TEXTS).astype(np.float64))

    def scores(frames):
        with torch.no_grad():
            parts = [
                cosines(trace(model, normalised(np.stack(frames[start : start + 64]), info.mean, info.std))[0], text)
                for start in range(0, len(frames), 64)
            ]
        return torch.cat(parts).numpy()

    return scores


@pytest.fixture(scope="session")
def pixels(tiny, photo):
    """The model's input for ``photo(seed)``, float64 [3, Y, X]."""
    return lambda seed=0: tiny.preprocess.prepare(photo(seed)).pixels.astype(np.float64)


@pytest.fixture(scope="session")
def mean(tiny):
    """The mean colour, float64 [3, 1, 1]."""
    return np.array(tiny.bundle.manifest.model.mean)[:, None, None]
