"""Fixtures that tests of several packages share, and what must be set before any of them imports triton."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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
def left_running() -> Callable[[Callable[[], object]], int]:
    """Threads of this process that a call leaves running: those that are seen so each time, for 20 ms after it.

    Skips where NumPy's own large product leaves none (one CPU, another BLAS) or the system has no /proc: nothing could
    be seen there. The state tells a thread that spins from one that sleeps however little of a busy CPU it gets.
    """
    tasks = Path("/proc/self/task")

    def running() -> set[str]:
        found = set()
        for task in tasks.iterdir():
            with suppress(OSError):  # it may end meanwhile
                if (task / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                    found.add(task.name)
        return found - {str(threading.get_native_id())}

    def measure(call: Callable[[], object]) -> int:
        call()
        deadline = time.monotonic() + 1
        while running() and time.monotonic() < deadline:  # what was woken before goes to sleep
            time.sleep(0.02)
        call()
        seen = []
        for _ in range(5):
            time.sleep(0.004)
            seen.append(running())
        return len(set.intersection(*seen))

    large = np.ones((400, 400), np.float32)
    if not tasks.is_dir() or not max(measure(lambda: large @ large) for _ in range(10)):
        pytest.skip("NumPy's products leave no thread running here")
    return measure
