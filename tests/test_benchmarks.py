"""The benchmarks: order and statistics of the runner, the gate, rows and the README's table. Nothing here is timed."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from benchmarks import cold, eager_methods, environment, readme, report, run
from benchmarks.bundles import prepare
from benchmarks.cases import Bench
from benchmarks.eager_m2ib import eager_m2ib
from benchmarks.gate import Case, Facts, GateError, NotSupportedError, check
from benchmarks.judge import memory_row, missing_row, timing_rows
from benchmarks.measure import FAILED, NOT_SUPPORTED, measure
from benchmarks.memory import PeakMemory
from benchmarks.models import Configuration
from benchmarks.postprocess import Signals
from benchmarks.registry import CASES, GROUPS, ITS_P50, LIMITS, MODELS, SECOND, Limit, select
from benchmarks.rows import CPU_ROWS, GPU_ROWS, Row, append, newest, read
from benchmarks.timing import Plan, Timings, interleave
from benchmarks.workload import Workload

from eyeshine.engine import CpuOptions, OpenVinoOptions
from eyeshine.errors import EngineError
from eyeshine.verify import TOLERANCES

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


def test_two_cases_run_in_turn():
    clock, log = FakeClock(), []
    interleave({n: clock.case([1.0], log, n) for n in "ab"}, Plan(rounds=9, warmup=1), clock)
    assert log == ["a", "b"] * 10


def test_budget_ends_the_rounds_but_not_before_the_fewest():
    clock, log = FakeClock(), []
    cases = {"a": clock.case([1.0], log, "a")}
    assert interleave(cases, Plan(rounds=50, budget_s=9.5, warmup=2, fewest=3), clock).rounds == 8
    assert interleave(cases, Plan(rounds=50, budget_s=0.0, warmup=2, fewest=3), clock).rounds == 3


def test_a_plan_is_the_groups_unless_the_command_line_says_otherwise():
    assert run._Asked(None, None).plan(GROUPS["m2ib"]) == Plan(rounds=4, budget_s=25.0, fewest=4, warmup=1)
    assert run._Asked(2, 3.0).plan(GROUPS["last"]) == Plan(rounds=2, budget_s=3.0, fewest=2, warmup=2)


def test_a_case_may_stay_and_its_first_run_is_not_counted():
    clock, log = FakeClock(), []
    cases = {"a": clock.case([9.0, 1.0, 2.0, 3.0], log, "a"), "b": clock.case([5.0], log, "b")}
    timings = interleave(cases, Plan(rounds=2, warmup=1, stay=4, budget_s=1e9), clock)
    assert log == [*"aaaabbbb"] * 3
    assert timings.wall_ms["a"] == pytest.approx([2000, 2000])
    assert timings.wall_ms["b"] == pytest.approx([5000, 5000])
    assert run._Asked(None, None).plan(GROUPS["loop"]).stay == 4


def test_statistics_follow_the_clock():
    clock, log = FakeClock(), []
    cases = {"plain": clock.case([0.1, 0.2, 0.4], log, "plain"), "other": clock.case([0.05, 0.2, 0.8], log, "other")}
    timings = interleave(cases, Plan(rounds=3, warmup=0, budget_s=1e9), clock)
    assert timings.percentile_ms("plain", 50) == pytest.approx(200)
    assert timings.percentile_ms("other", 0) == pytest.approx(50)
    assert timings.percentile_ms("plain", 99) == pytest.approx(np.percentile([100, 200, 400], 99))


def test_ratio_is_paired_within_rounds():
    # The machine slows down fourfold: the ratio stays, although both medians move.
    wall_ms = {"plain": np.array([100.0, 200.0, 400.0]), "ours": np.array([90.0, 190.0, 360.0])}
    assert Timings(wall_ms).ratio("ours", "plain") == pytest.approx(0.9)


# -- what is measured ----------------------------------------------------------------------------------------------


def test_groups_and_limits_name_known_cases_and_models():
    for group in GROUPS.values():
        assert set(group.cases) <= CASES.keys()
        assert set(group.models) <= MODELS.keys()
    for model, limits in LIMITS.items():
        for limit in limits:
            needed = {limit.case} if limit.over in (ITS_P50, SECOND) else {limit.case, limit.over}
            assert any(needed <= set(select(group, [], model)) for group in GROUPS), limit


def test_select_adds_what_a_case_is_compared_with():
    assert select("eager", ["eager-10"], "b32") == ("plain", "explain-10", "eager-10")
    assert select("int8", ["int8-10"], "b16") == ("plain", "explain-10", "int8-10")
    assert select("m2ib", ["eager-m2ib-released"], "b32") == ("m2ib", "eager-m2ib-released")
    assert select("throughput-10", ["curves-10"], "roads") == ("engine-10", "curves-10")
    assert select("deep", ["eager-10"], "b32") == ()
    assert "embedded-1" not in select("last", [], "b32")
    assert "embedded-1" in select("last", [], "roads")


def test_select_keeps_to_the_listed_subset_unless_a_case_is_asked_for():
    assert "b32" not in GROUPS["int8"].models
    assert select("int8", [], "b32") == ()
    assert select("int8", ["int8-10"], "b32") == ("plain", "explain-10", "int8-10")


def test_limits():
    assert Limit("a", "b", 0.95).holds(0.95)
    assert not Limit("a", "b", 0.95).holds(0.951)
    assert Limit("a", "b", 1.8, at_least=True).holds(1.9)
    assert not Limit("a", "b", 1.8, at_least=True).holds(1.79)
    assert PeakMemory(peak_bytes=310_000_000, weights_bytes=100_000_000).holds
    assert not PeakMemory(peak_bytes=310_000_001, weights_bytes=100_000_000).holds


def test_command_line_refuses_what_it_would_not_run():
    for given in ({"only": ["post-triton"]}, {"model": ["resnet"]}):
        with pytest.raises(typer.BadParameter, match="allowed: "):
            run.main(**given)


# -- the gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["value", "nan", "shape"])
def test_gate_refuses_a_wrong_result(spoil):
    expected = {"gradient": np.ones((1, 2, 1, 4), np.float32), "maps": np.ones((1, 2, 9), np.float32)}
    got = {name: value.copy() for name, value in expected.items()}
    assert check("case", got, expected, 1e-4) == 0
    if spoil == "shape":
        got["maps"] = got["maps"][:, :1]
    else:
        got["maps"][0, 1, 3] = float("nan") if spoil == "nan" else 1.001
    with pytest.raises(GateError, match="maps is wrong"):
        check("case", got, expected, 1e-4)


def test_gate_refuses_a_result_that_it_cannot_compare():
    with pytest.raises(GateError, match="nothing to compare"):
        check("case", {"a": np.ones(1)}, {"b": np.ones(1)}, 1e-4)


def test_gate_takes_a_cosine_near_zero_for_what_it_is():
    got, expected = np.array([[2e-7]], np.float32), np.array([[1e-7]], np.float32)
    assert check("case", {"similarity": got}, {"similarity": expected}, 1e-4) < 1e-6
    with pytest.raises(GateError):
        check("case", {"similarity": got + 1e-3}, {"similarity": expected}, 1e-4)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads make tiny matrices many times slower where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare(TINY, tmp_path_factory.mktemp("bench"))


def bench(tiny, batch=1, **engines):
    return Bench(tiny, Workload(tiny.source, batch), tiny.full(), CpuOptions(1), engines)


ENGINES = {"openvino": OpenVinoOptions(1)}
# The embedded weights need no export, but a process, or a study's tests; bf16 needs a CPU that has it; Triton a GPU.
KINDS_ELSEWHERE = ("cold", "network", "throughput")
ELSEWHERE = {name for name, spec in CASES.items() if spec.kind in KINDS_ELSEWHERE or spec.engine == "openvino-bf16"}
ELSEWHERE |= {name for name, spec in CASES.items() if spec.kind == "large"} | {"embedded-1", "post-triton"}


@pytest.mark.parametrize("case", [name for name in CASES if name not in ELSEWHERE])
def test_every_case_yields_what_autograd_yields(tiny, case):
    made = bench(tiny, **ENGINES).make(CASES[case])
    assert made.facts.precision == (CASES[case].precision or "fp32")
    assert made.check() < TOLERANCES[made.facts.precision]


@pytest.mark.parametrize("case", ["plain", "encode", "explain-10", "eager-10"])
def test_a_batch_is_compared_by_its_first_and_last_image(tiny, case):
    three = bench(tiny, batch=3)
    made = three.make(CASES[case])
    assert made.check() < 1e-4
    [rows] = {len(array) for array in made.probe().values()}
    assert rows == 2
    spoilt = replace(made, probe=lambda: {name: array[::-1] for name, array in made.probe().items()})
    with pytest.raises(GateError):
        spoilt.check()


def test_gate_refuses_graphs_of_other_weights(tiny):
    name = "visual.transformer.resblocks.2.mlp.c_fc.weight"
    other = {**tiny.source.state, name: tiny.source.state[name] * 1.01}
    case = bench(tiny).make(CASES["explain-1"])
    workload = Workload(replace(tiny.source, state=other))
    with pytest.raises(GateError):
        replace(case, expected=lambda: workload.expected(1)).check()


@pytest.mark.parametrize("again", [False, True])
def test_gate_refuses_m2ib_with_other_noise_and_leaves_parameters_as_they_were(tiny, monkeypatch, again):
    name = "m2ib-released" if again else "m2ib"
    trial = eager_methods.TRIALS[name]
    other = replace(trial, eager=eager_m2ib(replace(trial.method, seed=1), again=again))
    monkeypatch.setitem(eager_methods.TRIALS, name, other)
    with pytest.raises(GateError, match="maps is wrong"):
        bench(tiny).make(CASES[f"eager-{name}"]).check()
    assert all(parameter.requires_grad for parameter in tiny.network.visual.parameters())


def test_a_precision_without_a_tolerance_is_not_measured(tiny):
    made = bench(tiny).make(CASES["encode"])
    unknown = replace(made, facts=replace(made.facts, precision="fp7"))
    with pytest.raises(NotSupportedError, match="no tolerance for fp7"):
        unknown.check()


def test_an_engine_that_refuses_a_graph_is_not_supported_here(tiny, monkeypatch):
    def refuse(*_):
        raise EngineError("OpenVINO takes another precision on this CPU")

    monkeypatch.setattr(OpenVinoOptions, "open", refuse)
    with pytest.raises(NotSupportedError, match="takes another precision"):
        bench(tiny, **ENGINES).make(CASES["openvino-10"])


def test_an_export_is_taken_again_until_its_sources_change(tmp_path, monkeypatch):
    monkeypatch.setattr(Configuration, "fingerprint", lambda _: "of these sources")
    graph = prepare(TINY, tmp_path).deep(2).folder / "deep.onnx"
    before = graph.stat().st_mtime_ns
    assert prepare(TINY, tmp_path).deep(2).folder == graph.parent
    assert graph.stat().st_mtime_ns == before
    monkeypatch.setattr(Configuration, "fingerprint", lambda _: "of other sources")
    prepare(TINY, tmp_path)
    assert not graph.exists()


def test_a_fingerprint_changes_with_the_configuration():
    assert TINY.fingerprint() == Configuration("tiny", dict(TINY.raw)).fingerprint()
    assert TINY.fingerprint() != Configuration("tiny", {**TINY.raw, "embed_dim": 32}).fingerprint()


def test_post_processing_is_compared_with_a_slow_loop(tiny):
    made = bench(tiny).make(CASES["post-batched"])
    wanted = made.expected()["maps"]
    assert wanted.min() == 0
    assert wanted.max() == 1
    with pytest.raises(GateError):
        replace(made, probe=lambda: {"maps": np.sqrt(wanted)}).check()
    signals = Signals.random(2, 3, 5, 8)
    assert (signals.gradient.shape, signals.values.shape, signals.weights.shape) == ((2, 3, 8), (2, 6, 8), (2, 5))


# -- a group -------------------------------------------------------------------------------------------------------


def fake(spec, wrong=False):
    got = {"a": np.full(1, 2.0 if wrong else 1)}
    return Case(Facts(spec, "fake"), lambda: None, lambda: got, lambda: {"a": np.ones(1)})


def test_a_case_that_fails_gets_a_note_and_the_others_get_figures(capsys):
    def make(spec):
        if spec.name == "explain-1":
            raise NotSupportedError("no such engine")
        if spec.name == "explain-100":
            raise ValueError("broken")
        return fake(spec, wrong=spec.name == "explain-10")

    names = ["plain", "encode", "explain-1", "explain-10", "explain-100"]
    rows = measure(make, names, Plan(rounds=3), ORIGIN, "b32", "last")
    found = {row.case: row for row in rows}
    assert sorted(found) == sorted(names)
    assert all(found[name].p50_ms is not None for name in ("plain", "encode"))
    assert found["explain-1"].note == f"{NOT_SUPPORTED}no such engine"
    assert found["explain-10"].note.startswith(f"{FAILED}explain-10: a is wrong")
    assert found["explain-100"].note == f"{FAILED}ValueError: broken"
    assert "ValueError" in capsys.readouterr().err
    assert all(found[name].p50_ms is None for name in names[2:])


def test_nothing_is_timed_where_nothing_is_right():
    [row] = measure(lambda spec: fake(spec, wrong=True), ["plain"], Plan(rounds=3), ORIGIN, "b32", "last")
    assert row.p50_ms is None
    assert row.note.startswith(FAILED)


def test_cold_start_runs_fresh_processes_and_compares_their_maps(monkeypatch):
    rows = cold.rows(ORIGIN, "roads", 1, 1)
    assert [(row.case, row.rounds, row.over) for row in rows] == [("cold", 1, SECOND), ("cold-first", 1, SECOND)]
    assert all(row.error == 0 and row.p50_ms > 0 for row in rows)
    maps = cold.start(1, "")[1]
    monkeypatch.setattr(cold, "start", lambda *_: (1.0, maps * 1.01))
    with pytest.raises(GateError):
        cold.rows(ORIGIN, "roads", 1, 1)


def test_cold_start_says_why_a_process_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(cold, "_PROGRAM", "raise SystemExit('no bundle')")
    with pytest.raises(RuntimeError, match="no bundle"):
        cold.start(1, str(tmp_path))


# -- rows and tables -----------------------------------------------------------------------------------------------


def rows_of(model="b32", group="eager", **wall_ms):
    times = wall_ms or {"plain": [100.0, 110.0], "explain_1": [94.0, 104.5], "eager_1": [150.0, 160.0]}
    times = {name.replace("_", "-"): np.array(values) for name, values in times.items()}
    facts = {name: Facts(CASES[name], "fake") for name in times}
    return timing_rows(ORIGIN, model, group, Timings(times), facts, dict.fromkeys(times, 1e-6))


def test_rows_say_what_was_measured_and_whether_the_limit_is_met():
    plain, explain, eager = rows_of()
    assert (plain.ratio, plain.bound, plain.holds) == (1.0, None, None)
    assert explain.ratio == explain.compared == pytest.approx(0.945)
    assert (explain.over, explain.bound, explain.holds) == ("plain", 0.97, True)
    assert (eager.over, eager.bound, eager.holds) == ("explain-1", 1.8, False)
    assert explain.p50_ms == pytest.approx(99.25)
    assert explain.p95_ms == pytest.approx(np.percentile([94, 104.5], 95))
    assert explain.images_per_second == pytest.approx(1000 / 99.25, abs=0.01)
    assert (explain.engine, explain.precision, explain.base) == ("fake", "fp32", "plain")


def test_rows_of_batches_and_of_repeated_calls():
    timings = Timings({"post-loop": np.array([80.0, 80.0]), "post-batched": np.array([20.0, 40.0])})
    facts = {name: Facts(CASES[name], "fake", repeats=10) for name in timings.wall_ms}
    limits = [Limit("post-batched", "post-loop", 0.3, batch=4), Limit("post-batched", "post-loop", 0.5, batch=8)]
    errors = dict.fromkeys(facts, 0.0)
    loop, batched = timing_rows(ORIGIN, "b16", "post", timings, facts, errors, batch=4, limits=limits)
    assert (loop.p50_ms, loop.images_per_second) == (8, 500)
    assert (batched.batch, batched.bound, batched.holds) == (4, 0.3, False)


def test_tails_are_judged_where_two_sessions_take_turns():
    times = [100.0] * 90 + [120.0] * 10
    [explain, _] = rows_of("b16", "turns", explain_10=times, encode=times)
    assert (explain.over, explain.compared, explain.holds) == (ITS_P50, 1.2, True)
    [_, beside] = rows_of("b16", "last", plain=times, explain_10=times)
    assert (beside.over, beside.holds) == ("plain", False)


def test_cold_starts_are_judged_by_the_clock():
    cold_row, first = rows_of("roads", "cold", cold=[900.0], cold_first=[1100.0])
    assert (cold_row.over, cold_row.compared, cold_row.holds) == (SECOND, 0.9, True)
    assert first.holds is False


def test_rows_survive_the_file_and_come_back_newest_run_only(tmp_path):
    path = tmp_path / "results" / "rows.jsonl"
    assert read(path) == []
    old, new = rows_of(), [Row(**{**asdict(row), "run": "2026-02-01T00:00:00+00:00"}) for row in rows_of()]
    memory = memory_row(ORIGIN, "b16", PeakMemory(600_000_000, 500_000_000), "ff")
    append([*new, memory], path)
    append(old, path)
    keys = {"machine", "versions", "commit", "bundle_hash", "model", "case", "batch", "prompts", "engine", "precision"}
    keys |= {"p50_ms", "p95_ms", "p99_ms", "images_per_second", "note"}
    for line in path.read_text("utf-8").splitlines():
        assert keys <= json.loads(line).keys()
    assert newest(read(path)) == [memory, *new]


def test_the_committed_rows_have_one_schema():
    rows = read(CPU_ROWS)
    assert rows
    for row in rows:
        assert (row.p50_ms is None) == (row.case == "memory" or row.note is not None)


def test_table_on_stdout_says_ok_missed_and_why_there_is_no_figure():
    missing = missing_row(ORIGIN, "b32", "eager", "eager-10", f"{NOT_SUPPORTED}no torch")
    text = report.table("t", [*rows_of(), missing])
    lines = text.splitlines()
    assert lines[3].split()[-3:] == ["0.97", "ok", "1.0e-06"]
    assert "MISSED" in lines[4]
    assert ">= 1.80 x explain-1" in lines[4]
    assert lines[5].strip() == "eager PyTorch autograd, 10 prompts: not supported here: no torch"
    assert len({line.index("1.0e-06") for line in lines[2:5]}) == 1, "columns are aligned"


def test_readme_table_shows_medians_ratios_and_conditions():
    memory = memory_row(ORIGIN, "b16", PeakMemory(6 * 10**8, 5), "ff")
    missing = missing_row(ORIGIN, "b32", "openvino", "openvino-bf16-10", f"{NOT_SUPPORTED}no bf16")
    turns = rows_of("b16", "turns", explain_10=[100.0, 100.0, 130.0], encode=[1.0, 1.0, 1.0])
    content = readme.markdown([*rows_of("b32"), *rows_of("b16"), memory, missing, *turns])
    lines = content.splitlines()
    assert lines[0].endswith("| ViT-B/32 | ViT-B/16 |")
    assert "| explain, 1 prompt | 99.2 ms, 0.94 x | 99.2 ms, 0.94 x |" in lines
    assert "| OpenVINO, bf16: explain, 10 prompts | not supported here |  |" in lines
    assert "a CPU, 2 threads, onnxruntime 1.0" in content
    assert "0123456789ab" in content
    assert "peaks at 600 MB" in content
    assert "3 rounds of ViT-B/16: p99 is 1.29 x p50" in content
    assert lines[-1] == "On a GPU: not measured (`make bench-gpu` does it)."


def test_readme_shows_what_methods_by_passes_and_curves_are_held_against():
    m2ib = rows_of("roads", "m2ib", m2ib=[100.0], eager_m2ib=[320.0], eager_m2ib_released=[600.0])
    curves = rows_of("roads", "throughput-10", engine_10=[8.0], curves_10=[8.2])
    mmel = rows_of("b16", "mmel", plain=[100.0], eclip_four_1=[120.0], mmel_four_1=[123.0])
    assert [row.holds for row in (*m2ib, *curves, *mmel)] == [None, True, None, None, True, None, None, True]
    lines = readme.markdown([*m2ib, *curves, *mmel]).splitlines()
    for case, cells in {
        "m2ib": " | 100.0 ms |",
        "eager-m2ib": " | 320.0 ms, 3.20 x ours |",
        "eager-m2ib-released": " | 600.0 ms, 6.00 x ours |",
        "engine-10": " | 8.0 ms |",
        "curves-10": " | 8.2 ms, 1.02 x engine |",
        "eclip-four-1": "120.0 ms, 1.20 x |  |",
        "mmel-four-1": "123.0 ms, 1.23 x, 1.02 x grad_eclip |  |",
    }.items():
        [line] = [line for line in lines if line.startswith(f"| {CASES[case].title} |")]
        assert line.endswith(cells), line


def test_the_readme_has_the_table_of_the_committed_rows():
    text = (Path(readme.__file__).parents[1] / "README.md").read_text("utf-8")
    assert readme.insert(text, readme.markdown(newest(read(CPU_ROWS)), newest(read(GPU_ROWS)))) == text


def test_readme_shows_the_gpus_rows_where_there_are_any():
    rows = [replace(row, batch=64) for row in rows_of("l14", "cuda", plain=[10.0], explain_10=[9.5])]
    missing = missing_row(ORIGIN, "b16", "cuda", "plain", f"{FAILED}out of time")
    lines = readme.gpu_markdown([*rows, missing]).splitlines()
    assert "| ViT-L/14, cuda, fp32, batch 64 |  | 10.0 ms |  |  | 9.5 ms, 0.95 x |" in lines[2]
    assert readme.gpu_markdown([missing]) == "On a GPU: not measured (`make bench-gpu` does it)."


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


def test_environment_names_the_gpus_and_their_driver(tmp_path):
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 13.3.0"
    )
    assert environment.driver_version(version) == "580.65.06"
    assert environment.driver_version(tmp_path / "none") is None
    machine = {**ORIGIN["machine"], "gpus": [{"name": "a GPU", "sm": 90, "cuda": 13000}], "driver": "580.65.06"}
    assert "a CPU, 2 CPUs, a GPU (driver 580.65.06), Linux" in environment.describe({**ORIGIN, "machine": machine})


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
