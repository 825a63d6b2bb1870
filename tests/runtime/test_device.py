"""Explanations that stay on the device: the same numbers as on the host, and to the host only when asked.

Without a GPU the kernels run in Triton's interpreter, on the memory of onnxruntime's CPU provider.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyeshine import Explainer, Explanation
from eyeshine.device import DeviceExplanation
from eyeshine.engine import CpuOptions, OrtCpuSession
from eyeshine.errors import EngineError, InputError, OptionError

TEXTS = ["a car", "a tree", "a dog"]
HAS_GPU = torch.cuda.is_available()


def load(bundle, **options):
    """On hardware the engine is onnxruntime's CUDA provider."""
    if not HAS_GPU:
        return Explainer.load(bundle, threads=1, backend="triton", **options)
    try:
        return Explainer.load(bundle, provider="cuda", backend="triton", **options)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def host(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def device(tiny_bundle):
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (24, 36, 3), dtype=np.uint8) for _ in range(2)]


@pytest.mark.parametrize("against", [None, "rest", ["a tree"]], ids=["text", "rest", "others"])
@pytest.mark.parametrize("method", ["grad_eclip", "chefer", "attention"])
def test_maps_equal_those_of_the_host(method, against, host, device, photos):
    if method == "attention" and against:
        pytest.skip("does not depend on the text")
    texts = TEXTS if against == "rest" else TEXTS[:1]
    wanted = host.explain(photos, texts, method=method, against=against)
    got = device.explain_on_device(photos, texts, method=method, against=against)
    assert isinstance(got, DeviceExplanation)
    assert got.maps.shape == wanted.maps.shape
    assert got.maps.is_cuda is HAS_GPU
    scale = np.abs(wanted.maps).max()
    np.testing.assert_allclose(got.maps.cpu().numpy(), wanted.maps, atol=1e-4 * scale)
    np.testing.assert_allclose(got.similarities.cpu().numpy(), wanted.similarities, atol=1e-4)
    assert got.texts == wanted.texts
    assert got.target == wanted.target
    assert got.engine["backend"] == "triton"
    assert wanted.engine["backend"] == "reference"


def test_explain_brings_it_to_the_host(host, device, photos):
    wanted, got = host.explain(photos, TEXTS), device.explain(photos, TEXTS)
    assert isinstance(got, Explanation)
    assert isinstance(got.maps, np.ndarray)
    np.testing.assert_allclose(got.maps, wanted.maps, atol=1e-4 * wanted.maps.max())
    assert got.engine["backend"] == "triton"
    parts = {name: value for name, value in got.timings_ms.items() if name != "total"}
    assert set(parts) == {"preprocess", "text", "load", "graph", "maps", "to_host"}
    assert got.timings_ms["total"] == pytest.approx(sum(parts.values()))


def test_both_sides_share_the_image_vectors_of_the_device(host, device, photos):
    wanted, got = (each.explain(photos, TEXTS, side="both") for each in (host, device))
    np.testing.assert_allclose(got.maps, wanted.maps, atol=1e-4 * wanted.maps.max())
    most = np.abs(wanted.text_side.relevance).max()
    np.testing.assert_allclose(got.text_side.relevance, wanted.text_side.relevance, atol=1e-4 * most)
    np.testing.assert_allclose(got.text_side.similarities, got.similarities, atol=1e-4)


def test_the_maps_are_read_by_dlpack_without_a_copy(device, photos):
    result = device.explain_on_device(photos[0], TEXTS[:2])
    again = torch.from_dlpack(result.maps)
    assert again.data_ptr() == result.maps.data_ptr()


@pytest.mark.parametrize("scale", ["each", "shared"])
@pytest.mark.parametrize("size", [None, (11, 17)], ids=["own size", "another"])
def test_heat_maps_equal_those_of_the_host(scale, size, host, device, photos):
    wanted = host.explain(photos, TEXTS).heatmaps(scale, size)
    got = device.explain_on_device(photos, TEXTS).heatmaps(scale, size)
    np.testing.assert_allclose(got.cpu().numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_are_those_of_the_host(count, host, device, photos):
    texts = TEXTS[:count]
    wanted, got = host.explain(photos, texts), device.explain_on_device(photos, texts)
    pictures = got.overlays().cpu().numpy()
    assert pictures.shape == (2, count, 24, 36, 3)
    assert pictures.dtype == np.uint8
    for image in range(2):
        for prompt in range(count):
            picture = np.asarray(wanted.overlay(image, prompt)).astype(int)
            # Pillow blends in 8 bits and in two steps.
            assert np.abs(pictures[image, prompt] - picture).max() <= 4


def test_what_the_model_did_not_see_stays_dark(tiny_bundle, photos):
    explainers = [Explainer.load(tiny_bundle, threads=1, resize="shortest"), load(tiny_bundle, resize="shortest")]
    wanted = explainers[0].explain(photos[0], TEXTS[:2]).heatmaps()
    got = explainers[1].explain_on_device(photos[0], TEXTS[:2]).heatmaps().cpu().numpy()
    assert (wanted == 0).all(axis=(0, 1, 2)).any()
    np.testing.assert_array_equal((got == 0).all(axis=(0, 1, 2)), (wanted == 0).all(axis=(0, 1, 2)))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_images_of_several_sizes_need_a_size(device, photos):
    result = device.explain_on_device([photos[0], photos[0][:20]], TEXTS[:1])
    with pytest.raises(InputError, match="images of several sizes"):
        result.heatmaps()
    assert result.heatmaps(size=(8, 9)).shape == (2, 1, 8, 9)
    with pytest.raises(OptionError, match="unknown scale"):
        result.heatmaps("none", size=(8, 9))  # type: ignore[arg-type]


def test_maps_do_not_change_when_the_engine_runs_again(device, photos):
    first = device.explain_on_device(photos[0], TEXTS)
    kept, similarities = first.maps.clone(), first.similarities.clone()
    second = device.explain_on_device(photos[1], TEXTS)
    assert torch.equal(first.maps, kept)
    assert torch.equal(first.similarities, similarities)
    assert not torch.equal(second.maps, kept)


def test_a_map_that_is_not_finite_is_refused_on_its_way_to_the_host(device, photos, monkeypatch):
    real = OrtCpuSession.run_on_device

    def broken(self, inputs, outputs):
        result = real(self, inputs, outputs)
        result.outputs["gradient"][0, 0, 0, 0] = np.nan
        return result

    if HAS_GPU:
        pytest.skip("spoils the CPU session's outputs")
    monkeypatch.setattr(OrtCpuSession, "run_on_device", broken)
    result = device.explain_on_device(photos[0], TEXTS)
    assert result.maps[0, 0].isnan().any()
    with pytest.raises(EngineError, match="not finite"):
        result.to_host()


def test_the_backend_is_explicit(host, photos, tiny_bundle, monkeypatch):
    with pytest.raises(OptionError, match=r"takes the Triton kernels.*backend='?\"?triton"):
        host.explain_on_device(photos[0], TEXTS)
    with pytest.raises(OptionError, match="unknown backend"):
        Explainer.load(tiny_bundle, backend="cupy")  # type: ignore[arg-type]
    monkeypatch.setattr("eyeshine.backend.interpreting", lambda: False)
    with pytest.raises(OptionError, match="needs an engine on the GPU"):
        Explainer.load(tiny_bundle, provider=CpuOptions(1), backend="triton")


def test_kernels_that_cannot_run_are_an_error(tiny_bundle, monkeypatch):
    import eyeshine_kernels.backend

    monkeypatch.setattr(eyeshine_kernels.backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"cannot run here.*pip install 'eyeshine\[kernels\]'"):
        Explainer.load(tiny_bundle, backend="triton")
