"""Options of the engines on a GPU: what onnxruntime is handed, what a cached engine is keyed by, what is refused.

That the names exist was checked against onnxruntime-gpu 1.31.1: its CUDA provider refuses a name that it does not
know, the TensorRT provider's names were read from its library. What a GPU computes is tested at the end of this file
where there is one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eyeshine import Bundle, Explainer
from eyeshine.cli import main
from eyeshine.engine import CpuOptions, CudaOptions, TensorRtOptions, cuda, open_session, tensorrt
from eyeshine.engine.machine import Gpu
from eyeshine.errors import EngineError, OptionError
from eyeshine.verify import verify

CUDA_NAMES = {
    "device_id", "has_user_compute_stream", "user_compute_stream", "gpu_mem_limit", "arena_extend_strategy",
    "cudnn_conv_algo_search", "do_copy_in_default_stream", "cudnn_conv_use_max_workspace", "enable_cuda_graph",
    "tunable_op_enable", "enable_skip_layer_norm_strict_mode", "prefer_nhwc", "use_ep_level_unified_stream", "use_tf32",
    "fuse_conv_bias", "sdpa_kernel", "enable_cudnn",
}  # fmt: skip
TENSORRT_NAMES = {
    "device_id", "trt_max_workspace_size", "trt_fp16_enable", "trt_bf16_enable", "trt_engine_cache_enable",
    "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_timing_cache_enable", "trt_timing_cache_path",
    "trt_force_timing_cache", "trt_layer_norm_fp32_fallback", "trt_builder_optimization_level",
    "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes", "trt_cuda_graph_enable",
}  # fmt: skip

ORIN, H100 = Gpu(0, "Orin", 87, 12060), Gpu(0, "NVIDIA H100", 90, 13000)


@pytest.fixture
def gpu(monkeypatch):
    """A function that shows one GPU to the options, with TensorRT 10.16.1 beside it."""

    def show(found: Gpu = H100, trt: str = "101601") -> None:
        monkeypatch.setattr(cuda, "gpus", lambda: (found,))
        monkeypatch.setattr(tensorrt, "_version", lambda: trt)

    show()
    return show


# CUDA


def test_cuda_is_handed_what_it_knows():
    options = CudaOptions(device=1, memory_limit_mb=512, capture=(1, 5)).provider_options()
    assert options.keys() <= CUDA_NAMES
    assert options["device_id"] == "1"
    assert options["gpu_mem_limit"] == str(512 * 2**20)
    assert options["enable_cuda_graph"] == "1"
    assert options["use_tf32"] == "0"
    assert all(isinstance(value, str) for value in options.values())


def test_cuda_captures_graphs_from_pixels_alone():
    options = CudaOptions(capture=(1, 5))
    assert options.provider(capture=True).options["enable_cuda_graph"] == "1"
    assert options.provider(capture=False).options["enable_cuda_graph"] == "0"
    assert (options.nearest("B", 9), options.nearest("P", 2), options.nearest("T", 3)) == (1, 5, 3)
    assert CudaOptions().nearest("P", 2) == 2


def test_tf32_is_another_precision_but_for_fp16():
    assert [CudaOptions(tf32=tf32).precision("fp32") for tf32 in (False, True)] == ["fp32", "tf32"]
    assert CudaOptions(tf32=True).precision("fp16") == "fp16"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": -1}, "index of a GPU"),
        ({"device": True}, "index of a GPU"),
        ({"capture": (1,)}, "capture"),
        ({"capture": (1, 0)}, "capture"),
        ({"memory_limit_mb": 0}, "memory_limit_mb"),
    ],
)
def test_cuda_options_check_themselves(wrong, message):
    with pytest.raises(OptionError, match=message):
        CudaOptions(**wrong)


def test_a_gpu_that_is_not_there_is_named(gpu, monkeypatch):
    monkeypatch.setattr(cuda, "provider_missing", lambda name: None)
    CudaOptions(device=0).check_available()
    with pytest.raises(EngineError, match=r"no such GPU; got 3; allowed: 0..0"):
        CudaOptions(device=3).check_available()


@pytest.mark.parametrize("options", [CudaOptions(), TensorRtOptions()], ids=["cuda", "tensorrt"])
def test_the_cache_tag_changes_with_all_that_matters(options, gpu, monkeypatch):
    tags = [options.cache_tag("model")]
    assert options.cache_tag("model") == tags[0]
    tags.append(options.cache_tag("other model"))
    tags.append(replace(options, capture=(1, 2)).cache_tag("model"))
    gpu(ORIN)
    tags.append(options.cache_tag("model"))
    gpu(replace(H100, driver=13010))
    tags.append(options.cache_tag("model"))
    gpu()
    monkeypatch.setattr(cuda, "package_version", lambda *names: "onnxruntime-gpu 9.9")
    tags.append(options.cache_tag("model"))
    assert len(set(tags)) == len(tags)


def test_tensorrts_tag_changes_with_its_version_precision_and_shapes_but_not_with_the_folder(gpu, tmp_path):
    tag = TensorRtOptions().cache_tag("model")
    others = [TensorRtOptions(arithmetic="fp16"), TensorRtOptions(images=(1, 2, 8)), TensorRtOptions(texts=(1, 1, 1))]
    tags = {tag, *(options.cache_tag("model") for options in others)}
    gpu(trt="101700")
    tags.add(TensorRtOptions().cache_tag("model"))
    assert len(tags) == 5
    gpu()
    assert TensorRtOptions(folder=tmp_path, build=True).cache_tag("model") == tag


# TensorRT


def test_tensorrt_is_handed_what_it_knows(tiny_bundle, gpu, tmp_path):
    bundle, options = Bundle.open(tiny_bundle), TensorRtOptions(folder=tmp_path, arithmetic="fp16")
    for name in bundle.manifest.graphs:
        handed = options.for_graph(bundle, name)
        assert handed.keys() <= TENSORRT_NAMES
        assert handed["trt_fp16_enable"] == handed["trt_layer_norm_fp32_fallback"] == "True"
        assert handed["trt_bf16_enable"] == "False"
        # onnxruntime's parser takes True and False for TensorRT's switches, and nothing else.
        switches = {key: value for key, value in handed.items() if key.endswith(("_enable", "_fallback"))}
        assert len(switches) == 6
        assert set(switches.values()) <= {"True", "False"}
        assert Path(handed["trt_engine_cache_path"]).is_relative_to(tmp_path / options.cache_tag(bundle.hash))


def test_profiles_cover_every_dynamic_axis(tiny_bundle, gpu):
    bundle = Bundle.open(tiny_bundle)
    model, context = bundle.manifest.model, bundle.manifest.tokenizer.context_length
    options = TensorRtOptions(images=(1, 2, 4), texts=(1, 5, 50))
    image, text = options.for_graph(bundle, "image"), options.for_graph(bundle, "text")
    y, x = model.image_size
    assert image["trt_profile_min_shapes"] == f"pixels:1x3x{y}x{x},text:1x{model.embed_dim}"
    assert image["trt_profile_opt_shapes"] == f"pixels:2x3x{y}x{x},text:5x{model.embed_dim}"
    assert image["trt_profile_max_shapes"] == f"pixels:4x3x{y}x{x},text:50x{model.embed_dim}"
    assert text["trt_profile_max_shapes"] == f"tokens:50x{context}"
    assert text["trt_profile_min_shapes"] == "tokens:1x1"
    captured = TensorRtOptions(capture=(3, 7))
    shapes = {captured.for_graph(bundle, "image")[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")}
    assert shapes == {f"pixels:3x3x{y}x{x},text:7x{model.embed_dim}"}
    assert captured.for_graph(bundle, "image")["trt_cuda_graph_enable"] == "True"
    assert captured.for_graph(bundle, "text")["trt_cuda_graph_enable"] == "False"


def test_golden_sizes_stay_inside_the_profile():
    options = TensorRtOptions(images=(2, 4, 8), texts=(1, 1, 1))
    assert (options.nearest("B", 1), options.nearest("P", 2), options.nearest("L", 3)) == (2, 1, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": (2, 1, 8)}, "images must be"),
        ({"texts": (0, 1, 8)}, "texts must be"),
        ({"texts": (1, 8)}, "texts must be"),
        ({"arithmetic": "int8"}, "unknown arithmetic"),
        ({"optimization_level": 6}, "optimization_level"),
        ({"workspace_mb": -1}, "workspace_mb"),
    ],
)
def test_tensorrt_options_check_themselves(wrong, message):
    with pytest.raises(OptionError, match=message):
        TensorRtOptions(**wrong)


def test_the_precision_is_the_coarser_one(gpu, tiny_bundle):
    assert TensorRtOptions().precision("fp16") == "fp16"
    assert TensorRtOptions(arithmetic="fp16").precision("fp32") == "fp16"
    assert TensorRtOptions(arithmetic="fp32").precision("fp16") == "fp16"


def test_fp32_on_tensorrt_is_tf32_unless_the_environment_says_otherwise(gpu, monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    tag = TensorRtOptions().cache_tag("model")
    assert TensorRtOptions().precision("fp32") == "tf32"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert TensorRtOptions().precision("fp32") == "fp32"
    assert TensorRtOptions().cache_tag("model") != tag


def test_nothing_is_built_on_the_hot_path(tiny_bundle, gpu, tmp_path):
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(EngineError, match=r"was not built.*eyeshine build-engine"):
        TensorRtOptions(folder=tmp_path).open(bundle, "image")
    assert list(tmp_path.iterdir()) == []


def test_a_build_is_marked_when_it_is_finished(tiny_bundle, gpu, tmp_path):
    bundle, options = Bundle.open(tiny_bundle), TensorRtOptions(folder=tmp_path)
    options.cache(bundle, "image").mkdir(parents=True)
    assert not options.built(bundle, "image")
    with pytest.raises(EngineError, match="built nothing"):
        options.mark_built(bundle, "image", {"seconds": 3})
    engine = options.cache(bundle, "image") / "image_sm90.engine"
    engine.write_bytes(b"engine")
    options.mark_built(bundle, "image", {"seconds": 3})
    assert options.built(bundle, "image")
    assert not options.built(bundle, "encode")
    engine.unlink()  # onnxruntime would build it again, silently
    assert not options.built(bundle, "image")
    engine.write_bytes(b"engine")
    gpu(ORIN)
    assert not options.built(bundle, "image")


def test_an_int8_bundle_is_refused(tiny_bundle, gpu, tmp_path):
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "int8"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "precision": "int8"}), "utf-8")
    with pytest.raises(EngineError, match=r"dynamic quantisation.*--precision fp16"):
        TensorRtOptions(build=True).open(Bundle.open(folder), "image")
    with pytest.raises(EngineError, match=r"for the CPU.*--precision fp16"):
        CudaOptions().open(Bundle.open(folder), "image")


def test_a_missing_library_names_its_wheel(monkeypatch):
    monkeypatch.setattr(tensorrt, "_LIBRARY", "libnvinfer-that-is-not-there.so.10")
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"TensorRT is not installed.*pip install tensorrt-cu13"):
        tensorrt.load_library()


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("--images", "1,x,3"), "--images takes numbers", 2),
        (("--images", "3,2,1"), "images must be", 2),
        (("--precision", "int4"), "unknown arithmetic", 2),
        ((), "onnxruntime-gpu", 1),
    ],
)
def test_build_engine_says_what_is_wrong(arguments, message, status, capsys, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SystemExit) as exit_:
        main(["build-engine", *arguments])
    assert exit_.value.code == status
    assert message in capsys.readouterr().err


# On hardware


def on_this_machine(options):
    try:
        options.check_available()
    except EngineError as error:
        pytest.skip(str(error))
    return options


@pytest.mark.gpu
@pytest.mark.parametrize("capture", [None, (1, 2), (2, 3)], ids=["any size", "1x2", "2x3"])
def test_cuda_passes_the_gate(capture, tiny_bundle):
    options = on_this_machine(CudaOptions(capture=capture))
    for folder in (None, tiny_bundle):
        result = verify(Bundle.open(folder), options)
        assert result.passed, result.checks


@pytest.mark.gpu
@pytest.mark.parametrize("capture", [None, (1, 2)], ids=["any size", "captured"])
def test_cuda_explains_as_the_cpu_does(capture):
    from eyeshine import roads

    on_this_machine(CudaOptions())
    explainer = Explainer.load(provider="cuda", capture=capture)
    for seed in range(3):
        image = roads.render(seed=1_000_000_100 + seed).image
        got, wanted = (e.explain(image, ["a car", "a tree"]) for e in (explainer, Explainer.load(threads=1)))
        assert got.engine["provider"] == "CUDAExecutionProvider"
        np.testing.assert_allclose(got.maps, wanted.maps, atol=1e-4 * np.abs(wanted.maps).max())


@pytest.mark.gpu
def test_tensorrt_builds_ahead_and_then_explains(tmp_path):
    from eyeshine import roads

    options = on_this_machine(TensorRtOptions(folder=tmp_path))
    with pytest.raises(SystemExit) as exit_:
        main(["build-engine", "--folder", str(tmp_path)])
    assert not exit_.value.code
    image = roads.render(seed=1_000_000_100).image
    got, wanted = (Explainer.load(provider=p).explain(image, ["a car"]) for p in (options, CpuOptions()))
    np.testing.assert_allclose(got.maps, wanted.maps, atol=1e-3 * np.abs(wanted.maps).max())


@pytest.mark.gpu
def test_the_sessions_tensors_stay_on_the_gpu(tiny_bundle):
    import torch

    options = on_this_machine(CudaOptions())
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    inputs = {key: golden[f"in/{key}"] for key in bundle.graph("image").inputs}
    result = open_session(bundle, "image", options).run_on_device(inputs, ["gradient"])
    tensor = torch.from_dlpack(result.outputs["gradient"])
    assert tensor.is_cuda
    np.testing.assert_allclose(tensor.cpu().numpy(), golden["image/gradient"], rtol=1e-3, atol=1e-5)
