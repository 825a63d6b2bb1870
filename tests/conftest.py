"""Fixtures that tests of several packages share, and what must be set before any of them imports triton."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
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


@pytest.fixture(scope="session")
def left_running_ms() -> Callable[[Callable[[], object]], float]:
    """CPU time that this process takes in 60 ms of sleep after a call: of threads that the call left spinning.

    Skips where NumPy's own large product leaves none (one CPU, another BLAS): nothing could be seen there.
    """

    def measure(call: Callable[[], object]) -> float:
        call()
        time.sleep(0.15)  # so long spin those that were woken before
        call()
        before = time.process_time()
        time.sleep(0.06)
        return (time.process_time() - before) * 1e3

    large = np.ones((400, 400), np.float32)
    if max(measure(lambda: large @ large) for _ in range(3)) < 40:
        pytest.skip("NumPy's products leave no thread spinning here")
    return measure
