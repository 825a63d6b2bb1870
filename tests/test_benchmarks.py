"""The benchmarks: order and statistics of the runner, the gate, rows and the README's table. Nothing here is timed."""

import io
import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from benchmarks import environment, readme, report
from benchmarks.bundles import Configuration, prepare
from benchmarks.cases import Bench
from benchmarks.gate import GateError, Reference, check
from benchmarks.memory import PeakMemory
from benchmarks.registry import CASES, GROUPS, LIMITS, Limit, select
from benchmarks.rows import Row, append, memory_row, newest, read, timing_rows
from benchmarks.timing import Plan, Timings, interleave
from rich.console import Console

from eyeshine.engine import CpuOptions

TINY = Configuration(
    "tiny",
    {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
)
ORIGIN = {
    "run": "2026-01-01T00:00:00+00:00",
    "machine": {"cpu": "a CPU", "cpus": 2, "memory_gb": 8.0, "os": "Linux x86_64"},
    "versions": {"onnxruntime": "1.0", "torch": "2.0"},
    "commit": "0123456789abcdef",
    "dirty": False,
    "bundle_hash": "ff",
    "threads": 2,
}


class FakeClock:
    """Seconds that pass only where a case says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def case(self, seconds, log, name):
        steps = itertools.cycle(seconds)

        def run():
            log.append(name)
            self.now += next(steps)

        return run


# -- the runner ----------------------------------------------------------------------------------------------------


def test_every_round_runs_every_case_once_and_warm_up_is_not_counted():
    clock, log = FakeClock(), []
    cases = {name: clock.case([1.0], log, name) for name in ("a", "b", "c")}
    timings = interleave(cases, Plan(rounds=5, warmup=2, budget_s=1e9), clock)
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert len(rounds) == 7
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1, "one order would let each case follow the same other"
    assert timings.rounds == 5


def test_order_is_the_same_for_one_seed():
    logs = []
    for seed in (0, 0, 1):
        clock, log = FakeClock(), []
        interleave({n: clock.case([1.0], log, n) for n in "abcd"}, Plan(rounds=6, seed=seed), clock)
        logs.append(log)
    assert logs[0] == logs[1] != logs[2]


def test_budget_ends_the_rounds_but_not_before_the_fewest():
    clock, log = FakeClock(), []
    cases = {"a": clock.case([1.0], log, "a")}
    assert interleave(cases, Plan(rounds=50, budget_s=9.5, warmup=2, fewest=3), clock).rounds == 8
    assert interleave(cases, Plan(rounds=50, budget_s=0.0, warmup=2, fewest=3), clock).rounds == 3


def test_statistics_follow_the_clock():
    clock, log = FakeClock(), []
    cases = {"plain": clock.case([0.1, 0.2, 0.4], log, "plain"), "other": clock.case([0.05, 0.2, 0.8], log, "other")}
    timings = interleave(cases, Plan(rounds=3, warmup=0, budget_s=1e9), clock)
    assert timings.median_ms("plain") == pytest.approx(200)
    assert timings.min_ms("other") == pytest.approx(50)
    assert timings.p99_ms("plain") == pytest.approx(np.percentile([100, 200, 400], 99))


def test_ratio_is_paired_within_rounds():
    # The machine slows down fourfold: the ratio stays, although both medians move.
    wall_ms = {"plain": np.array([100.0, 200.0, 400.0]), "ours": np.array([90.0, 190.0, 360.0])}
    assert Timings(wall_ms).ratio("ours", "plain") == pytest.approx(0.9)


# -- what is measured ----------------------------------------------------------------------------------------------


def test_groups_and_limits_name_known_cases_and_every_group_has_a_plain_encoder():
    for names in GROUPS.values():
        assert names[0] == "plain"
        assert set(names) <= CASES.keys()
    for limit in itertools.chain.from_iterable(LIMITS.values()):
        assert any({limit.case, limit.over} <= set(names) for names in GROUPS.values())


def test_select_adds_what_a_case_is_compared_with():
    assert select("eager", ["eager-10"], embedded=False) == ("plain", "explain-10", "eager-10")
    assert select("deep", ["eager-10"], embedded=False) == ()
    assert "embedded-1" not in select("last", [], embedded=False)
    assert "embedded-1" in select("last", [], embedded=True)


def test_limits():
    assert Limit("a", "b", 0.95).holds(0.95)
    assert not Limit("a", "b", 0.95).holds(0.951)
    assert Limit("a", "b", 1.8, at_least=True).holds(1.9)
    assert not Limit("a", "b", 1.8, at_least=True).holds(1.79)
    assert PeakMemory(peak_bytes=310_000_000, weights_bytes=100_000_000).holds
    assert not PeakMemory(peak_bytes=310_000_001, weights_bytes=100_000_000).holds


# -- the gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["value", "nan", "shape"])
def test_gate_refuses_a_wrong_result(spoil):
    expected = {"gradient": np.ones((1, 2, 1, 4), np.float32), "maps": np.ones((1, 2, 9), np.float32)}
    got = {name: value.copy() for name, value in expected.items()}
    assert check("case", got, expected) == 0
    if spoil == "shape":
        got["maps"] = got["maps"][:, :1]
    else:
        got["maps"][0, 1, 3] = float("nan") if spoil == "nan" else 1.001
    with pytest.raises(GateError, match="maps is wrong"):
        check("case", got, expected)


def test_gate_refuses_a_result_that_it_cannot_compare():
    with pytest.raises(GateError, match="nothing to compare"):
        check("case", {"a": np.ones(1)}, {"b": np.ones(1)})


def test_gate_takes_a_cosine_near_zero_for_what_it_is():
    got, expected = np.array([[2e-7]], np.float32), np.array([[1e-7]], np.float32)
    assert check("case", {"similarity": got}, {"similarity": expected}) < 1e-6
    with pytest.raises(GateError):
        check("case", {"similarity": got + 1e-3}, {"similarity": expected})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare(TINY, tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("case", [name for name in CASES if name != "embedded-1"])
def test_every_case_yields_what_autograd_yields(tiny, case):
    assert Bench(tiny, CpuOptions(1)).make(CASES[case]).check() < 1e-4


def test_gate_refuses_graphs_of_other_weights(tiny):
    name = "visual.transformer.resblocks.2.mlp.c_fc.weight"
    other = {**tiny.source.state, name: tiny.source.state[name] * 1.01}
    case = Bench(tiny, CpuOptions(1)).make(CASES["explain-1"])
    reference = Reference(replace(tiny.source, state=other))
    bench = Bench(tiny, CpuOptions(1))
    expected = reference.explain(bench.pixels, bench.text(1), 1)
    with pytest.raises(GateError):
        check("explain-1", case.run(), expected)


def test_an_export_is_taken_again_until_its_sources_change(tiny):
    root, stamp = tiny.folder.parent, tiny.folder / "fingerprint"
    before = stamp.stat().st_mtime_ns
    assert prepare(TINY, root).folder == tiny.folder
    assert stamp.stat().st_mtime_ns == before
    assert TINY.fingerprint() != Configuration("tiny", {**TINY.raw, "embed_dim": 32}).fingerprint()


# -- rows and tables -----------------------------------------------------------------------------------------------


def rows_of(model="b32"):
    wall_ms = {
        "plain": np.array([100.0, 110.0]),
        "explain-1": np.array([94.0, 104.5]),
        "eager-1": np.array([150.0, 160.0]),
    }
    return timing_rows(ORIGIN, model, "eager", Timings(wall_ms), dict.fromkeys(wall_ms, 1e-6))


def test_rows_say_what_was_measured_and_whether_the_limit_is_met():
    plain, explain, eager = rows_of()
    assert (plain.ratio, plain.bound, plain.holds) == (1.0, None, None)
    assert explain.ratio == explain.compared == pytest.approx(0.945)
    assert (explain.over, explain.bound, explain.holds) == ("plain", 0.97, True)
    assert (eager.over, eager.bound, eager.holds) == ("explain-1", 1.8, False)
    assert explain.median_ms == pytest.approx(99.25)


def test_rows_survive_the_file_and_come_back_newest_run_only(tmp_path):
    old, new = rows_of(), [Row(**{**asdict(row), "run": "2026-02-01T00:00:00+00:00"}) for row in rows_of()]
    memory = memory_row(ORIGIN, "b16", PeakMemory(600_000_000, 500_000_000))
    append([*new, memory], tmp_path)
    path = append(old, tmp_path)
    keys = {"machine", "versions", "commit", "bundle_hash", "model", "case", "batch", "prompts", "median_ms", "p99_ms"}
    for line in path.read_text("utf-8").splitlines():
        assert keys <= json.loads(line).keys()
    assert newest(read(tmp_path)) == [memory, *new]


def test_table_on_stdout_says_ok_and_missed():
    console = Console(width=160, file=io.StringIO())
    console.print(report.table("t", rows_of()))
    text = console.file.getvalue()
    assert "ok" in text
    assert "MISSED" in text
    assert ">= 1.80 x explain-1" in text


def test_readme_table_shows_medians_ratios_and_conditions():
    content = readme.markdown([*rows_of("b32"), *rows_of("b16"), memory_row(ORIGIN, "b16", PeakMemory(6 * 10**8, 5))])
    lines = content.splitlines()
    assert lines[0].endswith("| ViT-B/32 | ViT-B/16 |")
    assert "| explain, 1 prompt | 99.2 ms, 0.94 x | 99.2 ms, 0.94 x |" in lines
    assert "a CPU, 2 threads, onnxruntime 1.0" in content
    assert "0123456789ab" in content
    assert "peaks at 600 MB" in content


def test_readme_refuses_rows_that_do_not_belong_together():
    other = [Row(**{**asdict(row), "commit": "fedcba"}) for row in rows_of("b16")]
    with pytest.raises(ValueError, match="different conditions"):
        readme.markdown([*rows_of("b32"), *other])
    with pytest.raises(ValueError, match="no rows"):
        readme.markdown([])


def test_readme_replaces_only_what_stands_between_the_markers():
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.insert(text, "new") == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    for broken in ("nothing", f"{readme.END}{readme.BEGIN}", text + text):
        with pytest.raises(ValueError, match="once each"):
            readme.insert(broken, "new")


def test_environment_names_versions_and_no_paths():
    found = json.dumps([environment.machine(), environment.versions()])
    assert "/home" not in found
    assert environment.versions()["torch"] == torch.__version__
    assert environment.machine()["cpus"] >= 1


def test_no_commit_where_there_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.revision(tmp_path) == {"commit": None, "dirty": None}


def test_the_embedded_models_figures_are_means_over_the_classes_that_occur():
    from benchmarks.readme import ROADS, insert, roads_markdown

    scores = {
        "scenes": 1000,
        "auc": {"car": 0.9, "dog": 0.8, "gnu": float("nan")},
        "pointing": {"chefer, text alone": {"car": 0.5, "dog": 0.7}},
        "chance": {"car": 0.1, "dog": 0.3},
    }
    table = roads_markdown(scores)
    assert "| 0.850 |" in table
    assert "chefer, text alone | 0.600 |" in table
    assert "chance | 0.200 |" in table
    text = f"a {ROADS[0]} old {ROADS[1]} z"
    assert "old" not in insert(text, table, *ROADS)
