"""The benchmark for a GPU on the CPU: its steps, its budget of time, its tables. Nothing here is timed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import eager, gpu, gpu_run, large, launches, postprocess, report
from benchmarks.budget import Budget
from benchmarks.gate import Case, Facts, GateError
from benchmarks.gpu_run import OUT_OF_TIME, Settings, measure_all
from benchmarks.judge import timing_rows
from benchmarks.measure import FAILED, NOT_SUPPORTED
from benchmarks.models import Configuration
from benchmarks.plan import KERNELS, PRECISIONS, steps
from benchmarks.postprocess import Signals
from benchmarks.registry import CASES, COPY, GPU_LIMITS
from benchmarks.timing import Plan, Timings
from benchmarks.workload import Workload

from eyeshine.engine import CudaOptions

ORIGIN = {"run": "2026-01-01", "machine": {}, "versions": {}, "commit": None, "dirty": None}
TINY = Configuration(
    "tiny",
    {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
)
SETTINGS = Settings(
    device="cpu",
    models=("b16",),
    batches=(1, 2),
    precisions=("fp32",),  # onnxruntime's NchwcTransformer crashes on the CPU on a plain encoder in fp16
    budget_s=1e6,
    plan=Plan(rounds=1, warmup=0),
    shapes=large.Shapes(copy_bytes=4096, rows=(1, 9, 20), pictures=(1, 1, 20, 30)),
    patches=(9, 16),
    repeats=(1, 2),
    configure=lambda _: TINY,
)


def measured(**changes):
    """All rows, and the titles of the steps."""
    titles, rows = zip(*measure_all(replace(SETTINGS, **changes), ORIGIN), strict=True)
    return [row for found in rows for row in found], titles


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads make tiny matrices many times slower where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def only(monkeypatch, *groups):
    chosen = [step for step in gpu_run.steps(("b16",), ("cpu",), (1,), ("fp16", "fp32")) if step.group in groups]
    monkeypatch.setattr(gpu_run, "steps", lambda *_: chosen)


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted where there is no GPU")


def test_steps_are_listed_once_and_what_the_limits_are_about_comes_first():
    listed = steps(("b16", "l14"), ("cuda", "cuda captured", "tensorrt"), (1, 8, 64))
    places = [(step.model, step.group, step.precision, step.batch) for step in listed]
    assert len(set(places)) == len(places)
    models, precisions, batches = 2, len(PRECISIONS), 3
    assert len(places) == 1 + batches + models * precisions * 3 * batches + models * 2
    assert {step.model for step in listed[:4]} == {KERNELS}
    assert places[4:6] == [("b16", "cuda", "fp16", 1), ("b16", "cuda", "fp16", 64)]
    first_of_8 = next(i for i, step in enumerate(listed) if step.batch == 8 and step.model != KERNELS)
    assert all(step.batch != 8 for step in listed[4:first_of_8])
    assert all(step.group == "tensorrt" for step in listed[-4:])


def test_every_limit_is_about_cases_of_one_step():
    listed = steps(("b16",), ("cuda",), (1, 64))
    for limit in GPU_LIMITS:
        needed = {limit.case, "copy" if limit.over == COPY else limit.over}
        assert any(needed <= set(step.cases) and limit.batch in (None, step.batch) for step in listed), limit


def test_budget():
    now = [10.0]
    budget = Budget(60, lambda: now[0])
    assert budget.allows(60)
    now[0] = 50.0
    assert budget.left_s == 20
    assert not budget.allows(21)


@without_gpu
def test_every_step_runs_through_the_gate_and_yields_rows(tmp_path):
    rows, titles = measured(folder=tmp_path, batches=(2,))
    assert not [row.note for row in rows if row.note is not None]
    assert "b16, cpu, fp32, batch 2" in titles
    found = {(row.group, row.case): row for row in rows}
    for group, cases in {
        "post": ["post-loop", "post-batched", "post-triton"],
        "large": ["copy", "normalize", "upsample", "overlay"],
        "torch": ["network", "eager-1", "eager-10"],
        "cpu": ["plain", "encode", "explain-1", "explain-10", "explain-100"],
    }.items():
        for case in cases:
            row = found[group, case]
            assert row.p50_ms > 0, row
            assert row.error <= 1e-2, row
    assert found["cpu", "explain-10"].bundle_hash
    assert found["torch", "eager-10"].engine == "torch cpu"
    assert found["large", "normalize"].bytes_moved == 2 * 9 * 20 * 4
    assert found["large", "copy"].bandwidth == 1
    assert found["post", "post-triton"].launches is None, "nothing is launched without a GPU"


def test_torch_in_half_precision_is_held_against_fp32(monkeypatch):
    only(monkeypatch, "torch")
    rows, _ = measured()
    errors = {(row.precision, row.case): row.error for row in rows}
    assert all(errors["fp32", case] < 1e-5 < errors["fp16", case] < 2e-2 for case in ("network", "eager-10"))


def test_nothing_of_the_oracle_or_of_eager_torch_is_made_on_another_device():
    """ "meta" has no data; like a GPU it refuses tensors that are elsewhere."""
    network = TINY.build()
    workload = Workload(TINY.source(network), device="meta")
    pixels, text = torch.zeros(2, 3, 32, 32, device="meta"), torch.zeros(3, 16, device="meta")
    visual = network.visual.to("meta")
    signals = Signals.random(2, 3, 5, 8).to(lambda array: torch.from_numpy(array).to("meta"))
    for found in (
        workload.on_device(pixels, text, 2),
        eager.EagerExplainer(visual).explain(pixels, text),
        eager.EagerExplainer(visual).encode(pixels),
        {"loop": postprocess.loop(signals), "batched": postprocess.batched(signals)},
    ):
        assert {tensor.device.type for tensor in found.values()} == {"meta"}


def test_what_there_is_no_time_for_gets_rows_that_say_so():
    rows, titles = measured(budget_s=0.0)
    assert len(rows) == sum(len(step.cases) for step in steps(("b16",), ("cpu",), (1, 2), ("fp32",)))
    assert {row.note for row in rows} == {OUT_OF_TIME}
    assert all(row.p50_ms is None for row in rows)
    assert report.table(titles[-1], rows[-3:]) == f"b16, torch, fp32, batch 2: {OUT_OF_TIME}"


def test_what_cannot_be_made_is_tried_once_for_a_step_and_said(monkeypatch, capsys):
    only(monkeypatch, "torch", "cpu")
    asked = []

    def configure(model):
        asked.append(model)
        raise RuntimeError("no such model")

    rows, titles = measured(configure=configure)
    assert {row.note for row in rows} == {f"{FAILED}RuntimeError: no such model"}
    assert len(asked) == len(titles)
    assert "no such model" in capsys.readouterr().err


TORCH_ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"onnxruntime", "onnx", "onnx_ir", "onnxscript", "tokenizers", "typer", "rich"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import benchmarks.gpu
sys.exit(benchmarks.gpu.main([]))
"""


@without_gpu
def test_it_needs_no_more_than_torch_to_say_that_there_is_no_gpu():
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", TORCH_ALONE], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("not measured on a GPU: torch")


def test_bundles_are_not_supported_where_the_exporters_libraries_are_missing(monkeypatch):
    only(monkeypatch, "cpu")
    monkeypatch.setattr(gpu_run, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert {row.note for row in measured()[0]} == {f"{NOT_SUPPORTED}bundles need onnxscript"}


def test_an_engine_that_is_not_there_is_not_supported_and_nothing_is_exported(monkeypatch, tmp_path):
    only(monkeypatch, "cpu")
    monkeypatch.setattr(Settings, "engines", lambda _: {"cpu": CudaOptions(device=99)})
    rows, _ = measured(folder=tmp_path)
    assert all(row.note.startswith(NOT_SUPPORTED) for row in rows)
    assert not list(tmp_path.iterdir())


def test_bandwidth_is_held_against_the_copy():
    timings = Timings({"copy": np.array([20.0]), "normalize": np.array([10.0])})
    facts = {
        name: Facts(CASES[name], "fake", repeats=repeats, least_bytes=least)
        for name, repeats, least in (("copy", 10, 400), ("normalize", 5, 300))
    }
    errors = {"copy": 0.0, "normalize": 0.0}
    copy, normalize = timing_rows(ORIGIN, KERNELS, "large", timings, facts, errors, limits=GPU_LIMITS)
    assert (copy.bandwidth, copy.holds) == (1.0, None)
    # 300 bytes in 2 ms over 400 in 2 ms.
    assert (normalize.p50_ms, normalize.bandwidth, normalize.compared) == (2.0, 0.75, 0.75)
    assert (normalize.over, normalize.bound, normalize.holds) == (COPY, 0.7, True)


def test_too_many_launches_miss_the_limit(monkeypatch):
    timings = Timings({"post-loop": np.array([100.0]), "post-triton": np.array([5.0])})
    facts = {name: Facts(CASES[name], "fake", repeats=10) for name in timings.wall_ms}
    case = Case(facts["post-triton"], list, dict, dict)
    errors = dict.fromkeys(facts, 0.0)
    [_, row] = timing_rows(ORIGIN, KERNELS, "post", timings, facts, errors, limits=GPU_LIMITS)
    assert row.holds is True
    for seen, holds in ((20, True), (30, False)):
        monkeypatch.setattr(launches, "count", lambda _, seen=seen: (seen, 1.0))
        counted = launches.with_launches(row, case)
        assert (counted.launches, counted.device_ms, counted.holds) == (seen / 10, 0.1, holds)
    monkeypatch.setattr(launches, "count", lambda _: None)
    assert launches.with_launches(row, case) == row


@without_gpu
@pytest.mark.parametrize("case", ["normalize", "upsample", "overlay"])
def test_a_wrong_kernel_is_not_timed(case):
    made = large.make(CASES[case], SETTINGS.shapes, "cpu", 1)
    assert made.check() <= (0.011 if case == "overlay" else 1e-4)
    with pytest.raises(GateError):
        replace(made, probe=lambda: {"out": made.probe()["out"][..., ::-1, :]}).check()


def test_the_command_line_says_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--model", "resnet"])
    assert "invalid choice: 'resnet'" in capsys.readouterr().err
