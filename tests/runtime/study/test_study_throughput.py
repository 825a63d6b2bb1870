"""``benchmarks.throughput``: as many images on both sides, the same scores, and what slows an evaluation down shows."""

from __future__ import annotations

from time import sleep

import pytest
from benchmarks import throughput
from benchmarks.gate import GateError
from benchmarks.timing import Plan

from eyeshine.metrics import Steps

PLAN = Plan(rounds=1, fewest=1, warmup=0)
ORIGIN = {"run": "", "machine": {}, "versions": {}, "commit": None, "dirty": None, "threads": 1}


@pytest.mark.parametrize(("group", "images"), [("224", 224 + 224 + 1), ("10", 10 + 10 + 1), ("photo", 10 + 10 + 1)])
def test_the_bare_engine_runs_on_as_many_images(tiny, monkeypatch, group, images):
    session, sizes, prepared = tiny._session("encode"), [], []
    run, prepare = session.run, type(tiny.preprocess).prepare
    monkeypatch.setattr(
        session, "run", lambda inputs, outputs: sizes.append(len(inputs["pixels"])) or run(inputs, outputs)
    )
    monkeypatch.setattr(type(tiny.preprocess), "prepare", lambda *given: prepared.append(len(sizes)) or prepare(*given))
    rows = throughput.rows(ORIGIN, "roads", f"throughput-{group}", tiny, PLAN)
    first = min(throughput.MAX_BATCH, images)
    # The gate: batched, alone, and the engine's batch alone and at once. Then each side once.
    assert sum(sizes) == 2 * images + 2 * first + 2 * images
    assert max(sizes) == first
    assert (len(prepared) >= 3 * images) == (group == "photo")
    assert [row.case for row in rows] == [f"engine-{group}", f"curves-{group}"]
    for row in rows:
        assert row.error <= 1e-4
        assert row.images_per_second == pytest.approx(1e3 / row.p50_ms, rel=1e-2)
    assert rows[1].over == rows[1].base == f"engine-{group}"
    assert rows[1].holds == (rows[1].compared <= 1 / 0.95)


def test_slow_frames_show(tiny, monkeypatch):
    original = Steps.frames

    def slow(self, case):
        for frame in original(self, case):
            sleep(0.02)
            yield frame

    monkeypatch.setattr(Steps, "frames", slow)
    _, row = throughput.rows(ORIGIN, "roads", "throughput-10", tiny, PLAN)
    assert row.holds is False
    assert row.p50_ms >= 10


def test_scores_that_depend_on_the_batch_are_not_timed(tiny, monkeypatch):
    original = throughput.evaluate

    def other(explainer, explanation, *, max_batch, **given):
        if max_batch == 1:
            explanation = explainer.explain(explanation.images[0][:, ::-1].copy(), explanation.texts)
        return original(explainer, explanation, max_batch=max_batch, **given)

    monkeypatch.setattr(throughput, "evaluate", other)
    with pytest.raises(GateError, match=r"curves-10: .* is wrong"):
        throughput.rows(ORIGIN, "roads", "throughput-10", tiny, PLAN)
