"""Fixtures that tests of several packages share, and what must be set before any of them imports triton."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Triton reads them when it is imported and decorates its own functions, and torch's exporter imports it: so they are
# set here, before the first test module. The second answers triton 3.9's notice that its default will change.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is found out about engines stays out of the user's cache, and is not read from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYESHINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random CLIP with a word-level tokenizer, three explained blocks in its deep graph.

    It is shared by the whole session: tests that change a bundle copy it first.
    """
    from tiny import export_tiny

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads make tiny matrices many times slower where the cores are shared
    try:
        return export_tiny(tmp_path_factory.mktemp("bundles") / "tiny")
    finally:
        torch.set_num_threads(before)
