"""Fixtures that tests of several packages share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random CLIP with a word-level tokenizer, three explained blocks in its deep graph.

    It is shared by the whole session: tests that change a bundle copy it first.
    """
    import torch

    from tiny import export_tiny

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads make tiny matrices many times slower where the cores are shared
    try:
        return export_tiny(tmp_path_factory.mktemp("bundles") / "tiny")
    finally:
        torch.set_num_threads(before)
