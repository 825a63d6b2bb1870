"""Models, and what open_clip's own model says of an image in float64, that tests of methods by passes share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eyeshine import Explainer

TEXTS = ["a red car", "the dog", "a tree"]


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Explainer:
    """Four by four patches of 8 pixels."""
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def oblong(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    """31 x 40 pixels in patches of 8: three by five of them, and seven rows that belong to none."""
    from eyeshine_export.write import export_bundle
    from tiny import tiny_config, tiny_source

    folder = tmp_path_factory.mktemp("bundles") / "oblong"
    export_bundle(tiny_source(tiny_config(vision={"image_size": [31, 40]})), folder)
    return Explainer.load(folder, threads=1)


@pytest.fixture(scope="session")
def photo():
    return lambda seed=0, height=60, width=90: np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


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
