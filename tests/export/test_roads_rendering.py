"""Rendering in other processes does not copy this one, whose threads may hold a lock at that moment."""

import os

import numpy as np
import pytest

from eyeshine_export.roads import data


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_no_forks(tmp_path, monkeypatch, workers):
    def fork():
        raise AssertionError("a forked worker waits for ever on a lock that a thread of its parent held")

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(data, "_CHUNK", 2)
    data.render_store(tmp_path, count=4, workers=workers)
    store = data.Store(tmp_path)
    assert list(store.ready()) == [0, 1, 2, 3]
    assert len({np.asarray(scene).tobytes() for scene in store.pixels}) == 4
