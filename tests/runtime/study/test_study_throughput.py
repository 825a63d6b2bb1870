"""``benchmarks.throughput``: as many images on both sides, and what slows an evaluation down shows."""

from __future__ import annotations

from time import sleep

from benchmarks.throughput import BOUND, measure
from benchmarks.timing import Plan

from eyeshine.metrics import Steps

PLAN = Plan(rounds=1, fewest=1, warmup=0)


def test_the_bare_engine_runs_on_as_many_images(tiny, monkeypatch):
    session, sizes = tiny._session("encode"), []
    original = session.run
    monkeypatch.setattr(
        session, "run", lambda inputs, outputs: sizes.append(len(inputs["pixels"])) or original(inputs, outputs)
    )
    results = measure(tiny, 1, 16, PLAN)
    assert [row.images for row in results] == [224 + 224 + 1, 10 + 10 + 1, 10 + 10 + 1]
    # To count them, and then each side once.
    assert sum(sizes) == 3 * sum(row.images for row in results)
    assert max(sizes) == 16
    for row in results:
        assert row.images_per_second > 0
        assert row.holds == (row.ratio >= BOUND)
    assert [row.prepares for row in results] == [False, False, True]


def test_slow_frames_show(tiny, monkeypatch):
    original = Steps.frames

    def slow(self, case):
        for frame in original(self, case):
            sleep(0.02 if self.points == 10 else 0)
            yield frame

    monkeypatch.setattr(Steps, "frames", slow)
    assert not any(row.holds for row in measure(tiny, 1, 16, PLAN)[1:])
