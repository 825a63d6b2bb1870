"""Models and photos that tests of several parts of the runtime share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eyeshine import Explainer


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
