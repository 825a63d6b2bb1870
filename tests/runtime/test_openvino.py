"""OpenVINO on the CPU: right numbers in the precision that was asked for, or none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from eyeshine import Bundle, Explainer, roads
from eyeshine.engine import CpuOptions, OpenVinoOptions, open_session
from eyeshine.engine import openvino as engine
from eyeshine.errors import EngineError, OptionError
from eyeshine.verify import TOLERANCES, verify

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def scene():
    return roads.render(seed=1_000_000_002).image


@pytest.mark.parametrize("bundle", ["tiny", "roads"])
def test_every_output_of_every_graph_is_right_in_fp32(bundle, tiny_bundle):
    result = verify(Bundle.open(tiny_bundle if bundle == "tiny" else None), OpenVinoOptions(1))
    assert result.passed, result.checks
    assert result.engine == {"provider": "OpenVINO CPU", "threads": 1, "inference_precision": "fp32"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_is_what_was_asked_for_or_an_error(precision):
    options = OpenVinoOptions(1, precision)
    try:
        result = verify(Bundle.open(), options)
    except EngineError as error:
        assert "takes another precision" in str(error)  # noqa: PT017 - which of the two depends on the CPU
    else:
        assert result.passed, result.checks
        assert max(check.error for check in result.checks) > TOLERANCES["fp32"]


def test_the_gate_refuses_the_gradient_that_openvino_gets_wrong(monkeypatch, tmp_path):
    """One packed copy for a square weight and its transpose; when this fails, the remedy has become needless."""
    monkeypatch.setenv("EYESHINE_CACHE", str(tmp_path))
    monkeypatch.setattr(engine, "_separate_shared_weights", lambda model: None)
    explainer = Explainer.load(provider=OpenVinoOptions(1))
    with pytest.raises(EngineError, match=r"OpenVINO CPU computes graph image of bundle roads wrongly.*gradient off"):
        explainer.explain(roads.render(seed=1_000_000_002).image, ["a car"])


def test_maps_are_those_of_onnxruntime(scene):
    texts = ["a car", "a tree", "a pedestrian"]
    got = Explainer.load(provider="openvino", threads=1).explain([scene, scene[:, ::-1]], texts)
    wanted = Explainer.load(threads=1).explain([scene, scene[:, ::-1]], texts)
    assert got.engine["provider"] == "OpenVINO CPU"
    np.testing.assert_allclose(got.maps, wanted.maps, atol=1e-4 * np.abs(wanted.maps).max())
    np.testing.assert_allclose(got.similarities, wanted.similarities, atol=1e-5)


def test_results_outlive_the_next_call_and_threads_do_not_mix(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    session = open_session(bundle, "image", OpenVinoOptions(1))
    plain = open_session(bundle, "image", CpuOptions(1))
    random = np.random.default_rng(0)
    inputs = [
        {
            "pixels": random.random((1, 3, *bundle.manifest.model.image_size), dtype=np.float32),
            "text": random.standard_normal((2, bundle.manifest.model.embed_dim), dtype=np.float32),
        }
        for _ in range(8)
    ]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda given: session.run(given, ["gradient"]).outputs["gradient"], inputs * 3))
    for index, result in enumerate(results):
        wanted = plain.run(inputs[index % 8], ["gradient"]).outputs["gradient"]
        np.testing.assert_allclose(result, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_wrong_input_is_an_engine_error(tiny_bundle):
    session = open_session(Bundle.open(tiny_bundle), "encode", OpenVinoOptions(1))
    with pytest.raises(EngineError, match="OpenVINO failed to run"):
        session.run({"pixels": np.zeros((1, 3, 4, 4), np.float32)}, ["embedding"])


@pytest.mark.parametrize("wrong", [{"threads": -1}, {"threads": True}, {"inference_precision": "auto"}])
def test_options_check_themselves(wrong):
    with pytest.raises(OptionError):
        OpenVinoOptions(**wrong)


def test_the_precision_is_always_handed_over():
    assert OpenVinoOptions(2).provider_options()["INFERENCE_PRECISION_HINT"] == "f32"
    assert OpenVinoOptions(2, "bf16").precision("fp32") == "bf16"
    assert OpenVinoOptions(2).precision("fp16") == "fp16"
    tags = {o.cache_tag("m") for o in (OpenVinoOptions(1), OpenVinoOptions(2), OpenVinoOptions(2, "bf16"))}
    assert len({*tags, OpenVinoOptions(1).cache_tag("n")}) == 4
