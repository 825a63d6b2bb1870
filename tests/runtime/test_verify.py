"""The numeric gate and its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eyeshine import Bundle, Explainer
from eyeshine import verify as gates
from eyeshine.bundle import sha256_of
from eyeshine.cli import main
from eyeshine.engine import CpuOptions, CudaOptions, open_session
from eyeshine.errors import BundleError, EngineError
from eyeshine.verify import TOLERANCES, check_graph, gate, output_error, verify


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture
def broken(tiny_bundle, tmp_path) -> Path:
    """A bundle of which one golden value is one per mille off, hashes forged to fit."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "broken"))
    with np.load(folder / "golden.npz") as archive:
        values = {key: archive[key].copy() for key in archive.files}
    values["image/gradient"] *= 1.001
    np.savez(folder / "golden.npz", allow_pickle=False, **values)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    golden = folder / "golden.npz"
    manifest["files"]["golden.npz"] = {"bytes": golden.stat().st_size, "sha256": sha256_of(golden)}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_every_graph_and_output_is_checked(tiny_bundle):
    result = verify(Bundle.open(tiny_bundle))
    assert result.passed
    assert {check.graph for check in result.checks} == set(Bundle.open(tiny_bundle).manifest.graphs)
    assert {"gradient", "keys", "values", "class_attention", "class_query", "similarity", "embedding"} <= {
        check.output for check in result.checks if check.graph == "image"
    }
    assert all(0 <= check.error <= check.tolerance == TOLERANCES["fp32"] for check in result.checks)
    for name, graph in Bundle.open(tiny_bundle).manifest.graphs.items():
        assert {check.output for check in result.checks if check.graph == name} == set(graph.outputs)


def test_one_wrong_output_fails_and_is_named(broken, capsys):
    result = verify(Bundle.open(broken))
    assert not result.passed
    wrong = [(check.graph, check.output) for check in result.checks if not check.passed]
    assert wrong == [("image", "gradient")]
    assert run("verify", broken) == 1
    assert "WRONG image.gradient" in capsys.readouterr().out


def test_the_error_is_relative_but_for_a_cosine():
    got, wanted = np.array([1.0, 2.0]), np.array([1.0, 2.5])
    assert output_error("keys", got, wanted) == pytest.approx(0.2)
    assert output_error("similarity", np.array([2e-5]), np.array([1e-5])) == pytest.approx(1e-5)
    assert output_error("keys", np.array([np.nan, 1]), wanted) == float("inf")
    assert output_error("keys", np.ones(3), wanted) == float("inf")


def test_a_precision_without_a_tolerance_is_refused(broken):
    manifest = json.loads((broken / "manifest.json").read_text("utf-8"))
    manifest["precision"] = "int3"
    (broken / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=r"precision.*int3.*fp32, fp16, int8"):
        verify(Bundle.open(broken))


def test_the_command_prints_json_and_exits_by_the_result(tiny_bundle, capsys):
    assert run("verify", tiny_bundle, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] is True
    assert record["engine"]["provider"] == "CPUExecutionProvider"


def test_the_doctor_says_what_runs_and_why_not_the_rest(capsys, monkeypatch):
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert "yes  explain on cpu: provider CPUExecutionProvider" in out
    for engine in ("cuda", "tensorrt", "openvino"):
        assert f"explain on {engine}: " in out
    assert "Triton kernels" in out
    assert "yes  export: torch" in out
    import eyeshine.cli.verify

    monkeypatch.setattr(eyeshine.cli.verify, "find_spec", lambda name: None)
    assert run("doctor") == 0
    assert "no   export: torch, open_clip" in capsys.readouterr().out


def test_commands_take_a_provider(tiny_bundle, capsys):
    assert run("verify", tiny_bundle, "--precision", "fp16") == 2
    assert "computes in the bundle's precision" in capsys.readouterr().err
    assert run("verify", tiny_bundle, "--device", "1") == 2
    assert "--device is for GPUs" in capsys.readouterr().err
    assert run("verify", tiny_bundle, "--provider", "abacus") == 2
    assert "unknown provider" in capsys.readouterr().err


# The gate at first load


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("EYESHINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The graphs that the gate ran."""
    graphs: list[str] = []
    real = gates.check_graph

    def counting(bundle, name, session, options):
        graphs.append(name)
        return real(bundle, name, session, options)

    monkeypatch.setattr(gates, "check_graph", counting)
    return graphs


def test_a_graph_is_checked_once_per_bundle_engine_and_machine(tiny_bundle, cache, asked, monkeypatch):
    for _ in range(2):
        explainer = Explainer.load(tiny_bundle, threads=1)
        explainer.warm_up()
    assert asked == ["image", "text"]
    Explainer.load(tiny_bundle, threads=2).warm_up()
    assert len(asked) == 4
    monkeypatch.setattr("eyeshine.engine.cpu.cpu_name", lambda: "another CPU")
    Explainer.load(tiny_bundle, threads=1).warm_up()
    assert len(asked) == 6
    Explainer.load(threads=1).warm_up()
    assert len(asked) == 8
    records = [json.loads(path.read_text("utf-8")) for path in cache.glob("gate/*.json")]
    assert len(records) == 8
    assert all(max(record["errors"].values()) <= 1e-4 for record in records)


def test_an_engine_that_fails_is_refused_every_time(broken, cache):
    for _ in range(2):
        explainer = Explainer.load(broken, threads=1)
        with pytest.raises(
            EngineError, match="computes graph image of bundle tiny wrongly and is refused; got gradient"
        ):
            explainer.warm_up()
    assert not list(cache.glob("gate/*"))
    Explainer.load(broken, threads=1, check=False).warm_up()


def test_without_a_writable_cache_the_gate_still_works(tiny_bundle, broken, tmp_path, asked, monkeypatch):
    (tmp_path / "file").write_text("no folder", "utf-8")
    monkeypatch.setenv("EYESHINE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        Explainer.load(tiny_bundle, threads=1).warm_up()
    assert asked == ["image", "text"] * 2
    with pytest.raises(EngineError, match="refused"):
        Explainer.load(broken, threads=1).warm_up()


def test_golden_values_are_repeated_to_the_sizes_an_engine_takes(tiny_bundle):
    """A captured or profiled engine may not take one image and two texts; here the CPU computes what it would."""
    bundle = Bundle.open(tiny_bundle)
    for name in ("image", "deep", "encode"):
        session = open_session(bundle, name, CpuOptions(1))
        sizes: list[tuple[int, ...]] = []

        class Watched:
            provider, input_dims, output_dims = session.provider, session.input_dims, session.output_dims

            def run(self, inputs, outputs):
                sizes.append(tuple(len(array) for array in inputs.values()))  # noqa: B023
                return session.run(inputs, outputs)  # noqa: B023

        checks = check_graph(bundle, name, Watched(), CudaOptions(capture=(3, 5)))
        # Once with other values, then with the golden ones.
        assert sizes == ([(3,)] if name == "encode" else [(3, 5)]) * 2
        assert checks
        assert all(check.passed for check in checks)


def test_the_cache_folder_is_the_named_one_or_the_users(monkeypatch, tmp_path):
    from eyeshine.cache import cache_folder

    monkeypatch.setenv("EYESHINE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EYESHINE_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "eyeshine"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "eyeshine"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "eyeshine"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "eyeshine" / "cache"


def test_an_engine_that_was_built_anew_is_asked_again(tiny_bundle, cache, asked):
    bundle, options = Bundle.open(tiny_bundle), CpuOptions(1)
    session = open_session(bundle, "encode", options)
    for again in (False, False, True):
        gate(bundle, "encode", session, options, again=again)
    assert asked == ["encode", "encode"]


def test_another_version_or_tolerance_is_asked_again(tiny_bundle, cache, asked, monkeypatch):
    bundle, options = Bundle.open(tiny_bundle), CpuOptions(1)
    session = open_session(bundle, "encode", options)
    gate(bundle, "encode", session, options)
    monkeypatch.setattr("eyeshine.__version__", "9.9")
    gate(bundle, "encode", session, options)
    monkeypatch.setitem(TOLERANCES, "fp32", 5e-5)
    gate(bundle, "encode", session, options)
    assert asked == ["encode"] * 3


def test_an_engine_that_repeats_its_first_answer_is_refused(tiny_bundle):
    """What a graph captured with stale buffers would do."""
    bundle = Bundle.open(tiny_bundle)
    session = open_session(bundle, "encode", CpuOptions(1))
    answers = []

    class Stale:
        provider, input_dims, output_dims = session.provider, session.input_dims, session.output_dims

        def run(self, inputs, outputs):
            answers.append(session.run(inputs, outputs))
            return answers[0]

    assert not all(check.passed for check in check_graph(bundle, "encode", Stale(), CudaOptions(capture=(1, 2))))


def test_a_missing_golden_value_is_no_pass(tiny_bundle, tmp_path):
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "less"))
    with np.load(folder / "golden.npz") as archive:
        values = {key: archive[key] for key in archive.files if key != "image/gradient"}
    np.savez(folder / "golden.npz", allow_pickle=False, **values)
    bundle = Bundle(folder, Bundle.open(tiny_bundle).manifest)
    with pytest.raises(BundleError, match="none for gradient"):
        check_graph(bundle, "image", open_session(bundle, "image", CpuOptions(1)), CpuOptions(1))


def test_the_gate_passes_a_right_engine(tiny_bundle, cache):
    bundle, options = Bundle.open(tiny_bundle), CpuOptions(1)
    gate(bundle, "encode", open_session(bundle, "encode", options), options)
    assert len(list(cache.glob("gate/cpu-*-encode.json"))) == 1
