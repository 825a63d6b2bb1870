"""The benchmark of M2IB: its eager versions explain what eyeshine explains, or nothing is timed."""

from dataclasses import replace

import pytest
from benchmarks.eager_m2ib import EagerM2ib, compare
from benchmarks.timing import Plan

from eyeshine.methods.m2ib import M2ib
from tiny import tiny_config, tiny_model, tiny_source

PLAN = Plan(rounds=2, budget_s=5, fewest=1, warmup=0)


@pytest.fixture
def visual():
    return tiny_model(tiny_config()).visual


def test_both_eager_versions_give_the_map_of_the_method(visual, tmp_path):
    row = compare(visual, tiny_source(), tmp_path / "tiny", M2ib(steps=4, copies=3), 2, 1, PLAN)
    assert set(row["p50_ms"]) == set(row["map_difference"]) == {"eyeshine", "eager", "released"}
    assert max(row["map_difference"].values()) <= 1e-4
    assert row["released_over_eyeshine"] > 0
    assert row["rounds"] == 2


def test_maps_that_differ_are_not_timed(visual, tmp_path, monkeypatch):
    plain = EagerM2ib.__init__
    monkeypatch.setattr(
        EagerM2ib, "__init__", lambda self, tower, options, *rest: plain(self, tower, replace(options, seed=9), *rest)
    )
    with pytest.raises(RuntimeError, match="maps differ"):
        compare(visual, tiny_source(), tmp_path / "tiny", M2ib(), 1, 1, PLAN)
