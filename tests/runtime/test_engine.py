"""Engines on onnxruntime: the CPU, I/O binding (tried on the CPU), and how one is chosen."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from eyeshine import Bundle, Explainer
from eyeshine.concept import ContrastOptions
from eyeshine.engine import (
    CpuOptions,
    CudaOptions,
    OpenVinoOptions,
    OrtCpuSession,
    TensorRtOptions,
    choose,
    engine_options,
    open_session,
    ort,
)
from eyeshine.engine.captured import CapturedSession
from eyeshine.engine.ort import BoundSession, Provider, open_ort
from eyeshine.errors import EngineError, FallbackWarning, InputError, OptionError
from eyeshine.methods import METHODS, by_passes
from eyeshine.statistics import head_statistics

CPU = Provider("CPUExecutionProvider", {})
SIGNALS = ["similarity", "gradient", "values"]


def open_plain(bundle):
    """onnxruntime's own session of the image graph, on the CPU."""
    return open_ort(bundle.folder / "image.onnx", CpuOptions(threads=1).session_options(), [CPU])


def image_inputs(bundle, images, texts, seed=0):
    random, model = np.random.default_rng(seed), bundle.manifest.model
    pixels = random.random((images, 3, *model.image_size), dtype=np.float32)
    return {"pixels": pixels, "text": random.standard_normal((texts, model.embed_dim), dtype=np.float32)}


def test_threads_are_explicit_and_recorded():
    assert CpuOptions().threads == len(os.sched_getaffinity(0))
    options = CpuOptions(threads=3)
    assert options.metadata() == {"provider": "CPUExecutionProvider", "threads": 3, "deterministic": True}
    with pytest.raises(OptionError, match="threads"):
        CpuOptions(threads=-1)


def test_spinning_is_off_and_compute_deterministic():
    options = CpuOptions(threads=2).session_options()
    assert options.use_deterministic_compute
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_golden_outputs_are_met(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    for name, graph in bundle.manifest.graphs.items():
        session = OrtCpuSession(bundle.folder / graph.file, CpuOptions(threads=1))
        run = session.run({key: golden[f"in/{key}"] for key in graph.inputs}, list(graph.outputs))
        assert run.provider == "CPUExecutionProvider"
        assert run.wall_ms > 0
        checked = [output for output in run.outputs if f"{name}/{output}" in golden]
        assert checked
        for output in checked:
            wanted = golden[f"{name}/{output}"]
            assert np.abs(run.outputs[output] - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_wrong_input_is_an_engine_error(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    wrong = {"pixels": np.zeros((1, 3, 4, 4), np.float32)}
    with pytest.raises(EngineError, match="failed to run"):
        OrtCpuSession(bundle.folder / "encode.onnx", CpuOptions(threads=1)).run(wrong, ["embedding"])
    with pytest.raises(EngineError, match="failed to run"):
        BoundSession(open_plain(bundle), CPU).run({**image_inputs(bundle, 1, 1), **wrong}, SIGNALS)


# I/O binding


def test_bound_outputs_equal_those_of_a_plain_run_at_any_size(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    plain = OrtCpuSession(bundle.folder / "image.onnx", CpuOptions(threads=1))
    bound = BoundSession(open_plain(bundle), CPU)
    assert bound.input_dims == plain.input_dims
    assert bound.output_dims == plain.output_dims
    for images, texts in ((1, 1), (3, 2), (1, 7)):
        inputs = image_inputs(bundle, images, texts)
        wanted, got = plain.run(inputs, SIGNALS).outputs, bound.run(inputs, SIGNALS)
        assert got.provider == "CPUExecutionProvider"
        assert list(got.outputs) == SIGNALS
        for name in SIGNALS:
            np.testing.assert_array_equal(got.outputs[name], wanted[name])


@pytest.mark.parametrize("kind", ["plain", "bound", "fixed"])
def test_outputs_stay_where_they_are_and_dlpack_reads_them(kind, tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    plain = OrtCpuSession(bundle.folder / "image.onnx", CpuOptions(threads=1))
    sessions = {
        "plain": plain,
        "bound": BoundSession(open_plain(bundle), CPU),
        "fixed": CapturedSession(open_plain(bundle), CPU, {"B": 2, "P": 3}),
    }
    inputs = image_inputs(bundle, 2, 3)
    result = sessions[kind].run_on_device(inputs, SIGNALS)
    assert result.provider == "CPUExecutionProvider"
    for name, value in plain.run(inputs, SIGNALS).outputs.items():
        tensor = torch.from_dlpack(result.outputs[name])
        assert tensor.device.type == "cpu"
        np.testing.assert_array_equal(tensor.numpy(), value)


def test_fixed_buffers_are_used_again_and_earlier_results_stay(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    fixed = CapturedSession(open_plain(bundle), CPU, {"B": 1, "P": 2})
    first, second = image_inputs(bundle, 1, 2, seed=1), image_inputs(bundle, 1, 2, seed=2)
    address = torch.from_dlpack(fixed.run_on_device(first, ["gradient"]).outputs["gradient"]).data_ptr()
    before = fixed.run(first, SIGNALS).outputs
    kept = before["gradient"].copy()
    after = fixed.run(second, SIGNALS).outputs
    assert torch.from_dlpack(fixed.run_on_device(second, ["gradient"]).outputs["gradient"]).data_ptr() == address
    np.testing.assert_array_equal(before["gradient"], kept)
    assert np.abs(after["gradient"] - kept).max() > 0


def test_a_captured_session_refuses_other_sizes(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    fixed = CapturedSession(open_plain(bundle), CPU, {"B": 1, "P": 2})
    with pytest.raises(InputError, match=r"text \[3, .*B=1, P=2.*without capture"):
        fixed.run(image_inputs(bundle, 1, 3), SIGNALS)


def test_a_captured_session_refuses_axes_that_it_was_given_no_size_of(tiny_bundle):
    with pytest.raises(EngineError, match="captured graph runs one size; got text of any P; cure: load without"):
        CapturedSession(open_plain(Bundle.open(tiny_bundle)), CPU, {"B": 1})


class TwoImages(CpuOptions):
    """Graphs from pixels run two images and three texts and nothing else, as captured ones do."""

    sizes: ClassVar = {"B": 2, "P": 3}

    def nearest(self, axis, size):
        return self.sizes.get(axis, size)

    def open(self, bundle, graph):
        info = bundle.graph(graph)
        if "pixels" not in info.inputs:
            return super().open(bundle, graph)
        session = open_ort(bundle.folder / info.file, self.session_options(), [CPU])
        return CapturedSession(session, CPU, self.sizes)


class OneImage(TwoImages):
    sizes: ClassVar = {"B": 1, "P": 1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="through Triton's interpreter, beside the engine for the CPU")
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not by_passes(method)])
def test_maps_on_the_device_are_no_part_of_what_the_next_run_writes_to(name, tiny_bundle):
    """Of one image and text a slice of an engine's output is in one piece, and no copy unless it is made one."""
    method = METHODS[name]
    if getattr(method, "layers", 1) > 3:
        method = replace(method, layers=3)
    explainer = Explainer(Bundle.open(tiny_bundle), OneImage(threads=1), backend="triton")
    photos = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    first = explainer.explain_on_device(photos[0], ["a red car"], method=method).maps
    kept = first.clone()
    second = explainer.explain_on_device(photos[1], ["a red car"], method=method).maps
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("method", ["chefer_layers", "legrad"])
def test_a_contrast_of_each_images_own_runs_on_an_engine_of_one_size(method, tiny_bundle):
    """The graph takes one target for all images, so that images run one at a time: the engine runs copies."""
    random = np.random.default_rng(0)
    photos = list(random.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8))
    against = ContrastOptions(candidates=["a dog", "a tree", "the sky", "a house"], top=1)
    texts = ["a red car", "the dog", "a tree"]
    free = Explainer.load(tiny_bundle, threads=1).explain(photos, texts, method=method, against=against)
    fixed = Explainer(Bundle.open(tiny_bundle), TwoImages(threads=1)).explain(
        photos, texts, method=method, against=against
    )
    assert len({choice.chosen for of_image in free.details["contrast"] for choice in of_image}) > 1
    np.testing.assert_allclose(fixed.maps, free.maps, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fixed.similarities, free.similarities, atol=1e-6)


def test_statistics_of_heads_on_an_engine_of_one_size(tiny_bundle):
    photos = list(np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8))
    free = head_statistics(Explainer.load(tiny_bundle, threads=1), photos, layers=2)
    fixed = head_statistics(Explainer(Bundle.open(tiny_bundle), TwoImages(threads=1)), photos, layers=2)
    np.testing.assert_allclose(fixed.entropy_bits, free.entropy_bits, rtol=1e-5)


@pytest.mark.parametrize("shapes", [None, {"B": 1, "P": 2}], ids=["any size", "fixed"])
def test_threads_do_not_disturb_each_other(shapes, tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    session = CapturedSession(open_plain(bundle), CPU, shapes) if shapes else BoundSession(open_plain(bundle), CPU)
    inputs = [image_inputs(bundle, 1, 2, seed=seed) for seed in range(4)]
    wanted = [session.run(given, SIGNALS).outputs for given in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            got = session.run(inputs[index], SIGNALS).outputs
            if any((got[name] != wanted[index][name]).any() for name in SIGNALS):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_held_outputs_are_not_written_over_by_another_thread(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    session = CapturedSession(open_plain(bundle), CPU, {"B": 1, "P": 2})
    first, second = image_inputs(bundle, 1, 2, seed=1), image_inputs(bundle, 1, 2, seed=2)
    wanted = session.run(first, ["gradient"]).outputs["gradient"]
    started = threading.Event()

    def disturb() -> None:
        started.set()
        session.run(second, ["gradient"])

    thread = threading.Thread(target=disturb)
    with session.hold():
        tensor = torch.from_dlpack(session.run_on_device(first, ["gradient"]).outputs["gradient"])
        thread.start()
        started.wait()
        thread.join(0.3)  # without the lock it would have finished, and written
        np.testing.assert_array_equal(tensor.numpy(), wanted)
    thread.join()
    assert (tensor.numpy() != wanted).any()


def test_captured_runs_are_all_on_one_thread(tiny_bundle, monkeypatch):
    bundle = Bundle.open(tiny_bundle)
    plain = open_plain(bundle)
    seen: set[int] = set()

    class Watched:
        def __getattr__(self, name):
            return getattr(plain, name)

        def run_with_iobinding(self, binding):
            seen.add(threading.get_ident())
            plain.run_with_iobinding(binding)

    session = CapturedSession(Watched(), CPU, {"B": 1, "P": 2})
    assert len(seen) == 1  # it ran when it was opened
    threads = [threading.Thread(target=session.run, args=(image_inputs(bundle, 1, 2), SIGNALS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1
    assert threading.get_ident() not in seen


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("CPUExecutionProvider", "Shape"), ("CUDAExecutionProvider", "MatMul")], None),
        (
            [("CPUExecutionProvider", "MatMul"), ("CUDAExecutionProvider", "Add")],
            "of g to the CPU; got MatMul",
        ),
        ([("CPUExecutionProvider", "Shape")], "takes no part of g"),
    ],
)
def test_arithmetic_that_is_left_to_the_cpu_is_an_error(parts, message):
    class Part:
        def __init__(self, name, kind):
            self.ep_name = name
            self.get_nodes = lambda: [type("Node", (), {"op_type": kind})]

    session = type(
        "Session", (), {"get_provider_graph_assignment_info": lambda self: [Part(*part) for part in parts]}
    )()
    if message is None:
        ort._check_places(session, "CUDAExecutionProvider", "g")
    else:
        with pytest.raises(EngineError, match=message):
            ort._check_places(session, "CUDAExecutionProvider", "g")


def test_a_provider_that_onnxruntime_drops_is_an_error(tiny_bundle):
    """onnxruntime logs and goes on without a provider that does not start; the wheel for the CPU has no CUDA."""
    bundle = Bundle.open(tiny_bundle)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineError, match="fell back to CPU"),
    ):
        open_ort(
            bundle.folder / "image.onnx",
            CpuOptions(threads=1).session_options(),
            [Provider("CUDAExecutionProvider", {})],
        )


# Choosing


@pytest.fixture
def no_gpu(monkeypatch):
    """An onnxruntime without CUDA and no openvino, whatever is installed."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("eyeshine.engine.openvino.find_spec", lambda name: None)


def test_names_stand_for_options():
    assert engine_options("cpu", threads=2) == CpuOptions(2)
    assert engine_options("openvino", threads=2) == OpenVinoOptions(2)
    assert engine_options("cuda", capture=(1, 5)) == CudaOptions(capture=(1, 5))
    assert engine_options("tensorrt") == TensorRtOptions()
    options = CudaOptions(device=1)
    assert engine_options(options) is options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"provider": "metal"}, "unknown provider.*cpu, cuda, tensorrt, openvino"),
        ({"provider": "cpu", "capture": (1, 1)}, "capture needs a GPU"),
        ({"provider": "openvino", "capture": (1, 1)}, "capture needs a GPU"),
        ({"provider": "cuda", "threads": 2}, "threads are for engines on the CPU"),
        ({"provider": "cuda", "capture": (0, 1)}, "capture must be two sizes"),
        ({"provider": CpuOptions(), "threads": 2}, "stand in the options"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        engine_options(**arguments)


@pytest.mark.parametrize(
    ("provider", "wheel"), [("cuda", "onnxruntime-gpu"), ("tensorrt", "onnxruntime-gpu"), ("openvino", "openvino")]
)
def test_a_missing_provider_names_the_wheel(provider, wheel, no_gpu):
    with pytest.raises(EngineError, match=f"cure: .*pip install.*{wheel}"):
        Explainer.load(provider=provider)


def test_falling_back_is_asked_for_and_shows(no_gpu, car_image):
    with pytest.warns(FallbackWarning, match="fell back to provider cpu.*CUDAExecutionProvider"):
        explainer = Explainer.load(provider="cuda", fallback=["openvino", CpuOptions(1)])
    result = explainer.explain(car_image, ["a car"])
    assert result.engine["provider"] == "CPUExecutionProvider"
    assert result.engine["threads"] == 1
    assert "CUDAExecutionProvider" in result.engine["fell_back"]
    assert "fell_back" not in Explainer.load(threads=1).explain(car_image, ["a car"]).engine


def test_where_nothing_is_there_the_first_wish_is_named(no_gpu):
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        choose(CudaOptions(), [OpenVinoOptions()])


@pytest.fixture
def car_image():
    from eyeshine import roads

    return roads.render(seed=1_000_000_001).image


def test_opening_checks_the_tensors_against_the_manifest(tiny_bundle):
    session = open_session(Bundle.open(tiny_bundle), "encode", CpuOptions(threads=1))
    assert list(session.output_dims) == ["embedding"]


def test_the_cpu_needs_no_package_of_another_engine():
    done = __import__("subprocess").run(
        [
            sys.executable, "-c",
            "import sys\nfrom eyeshine import Explainer\nExplainer.load(threads=1).warm_up()\n"
            "assert not {'openvino', 'torch', 'triton', 'onnx'} & set(sys.modules), set(sys.modules)",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
