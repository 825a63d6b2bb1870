"""Graphs for images of any size: the model's own numbers at its own size, autograd's at others, maps of their grid."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine import Explainer
from eyeshine.bundle import Bundle
from eyeshine.errors import ImageError, OptionError, SignalError, UnsupportedError
from eyeshine.methods import GradEclip
from eyeshine.preprocess import Preprocess
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.towers import encode_graph, explain_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.reference import explain_reference
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import evaluate, normalised, relative, run_onnxruntime, signals, spatial_weights, trace
from tiny import arrays, tiny_config, tiny_model, tiny_source
from towers import TOWERS, tower_signals, tower_source

SIZES = [(32, 32), (16, 56), (72, 40), (8, 8)]
RAW = tiny_config(vision={"ls_init_value": 0.1})


def graph_of(source, any_size, layers=1, dtype=np.float64, opset=23):
    normalisation, config = source.normalisation, source.config
    state = arrays(source, dtype)
    weights = vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    form = Form(opset, dtype=dtype, any_size=any_size)
    return explain_graph(config, weights, layers, form) if layers else encode_graph(config, weights, form)


def inputs_of(source, size, images=2, prompts=3, dtype=np.float64):
    random = np.random.default_rng(0)
    text = random.standard_normal((prompts, source.config.embed_dim))
    return {"pixels": random.random((images, 3, *size)).astype(dtype), "text": text.astype(dtype)}


def resized_model(raw, size, seed=0):
    """open_clip's own model with its positions resampled by PyTorch, as Grad-ECLIP does it: it runs at ``size``."""
    model = tiny_model(raw, seed).double()
    positions, grid = model.visual.positional_embedding.detach(), model.visual.grid_size
    picture = positions[1:].T.reshape(1, -1, *grid)
    rows, columns = size[0] // 8, size[1] // 8
    patches = F.interpolate(picture, (rows, columns), mode="bicubic", align_corners=False)
    whole = torch.cat([positions[:1], patches.flatten(2)[0].T])
    model.visual.positional_embedding = torch.nn.Parameter(whole)
    return model


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_float64_equals_autograd_through_open_clip_with_pytorchs_positions(size, layers):
    source = tiny_source(RAW)
    inputs, mean = inputs_of(source, size), source.normalisation
    text = torch.from_numpy(inputs["text"])
    expected = signals(resized_model(RAW, size), normalised(inputs["pixels"], mean.mean, mean.std), text, layers)
    got = evaluate(graph_of(source, True, layers), inputs)
    for output, value in expected.items():
        assert relative(got[output], value) <= 1e-11, output
    state = {name: tensor.double() for name, tensor in source.state.items()}
    pixels = torch.from_numpy(inputs["pixels"])
    ours = explain_reference(state, source.config, pixels, text, layers, mean.mean, mean.std)
    for output, value in expected.items():
        assert relative(ours[output].numpy(), value) <= 1e-11, output


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_at_the_models_own_size_it_is_the_graph_of_that_size(layers, opset):
    """In float32 on onnxruntime: the cubic's weights are 0 and 1 there, so positions are those of the model."""
    source = tiny_source(RAW)
    inputs = inputs_of(source, (32, 32), dtype=np.float32)
    inputs = inputs if layers else {"pixels": inputs["pixels"]}
    fixed, free = (run_onnxruntime(graph_of(source, n, layers, np.float32, opset), inputs) for n in (False, True))
    for output, value in fixed.items():
        assert relative(free[output], value) <= 1e-6, output


@pytest.mark.parametrize("name", ["siglip", "coca", "clipa"])
def test_other_towers(name):
    """On the reference, which the library's modules vouch for at the model's own size."""
    raw, source = TOWERS[name], tower_source(TOWERS[name])
    mean, state = source.normalisation, {key: value.double() for key, value in source.state.items()}
    for size in ((32, 32), (24, 48)):
        inputs = inputs_of(source, size)
        got, text = evaluate(graph_of(source, True), inputs), torch.from_numpy(inputs["text"])
        pixels = torch.from_numpy(inputs["pixels"])
        expected = explain_reference(state, source.config, pixels, text, 1, mean.mean, mean.std)
        for output, value in expected.items():
            assert relative(got[output], value.numpy()) <= 1e-11, output
        if size == (32, 32):
            theirs = tower_signals(raw, normalised(inputs["pixels"], mean.mean, mean.std), text, 1)
            assert relative(got["gradient"], theirs["gradient"]) <= 1e-11


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any") / "size"
    export_bundle(tiny_source(RAW), folder, ExportOptions(signals=("sizes",)))
    return folder


def photo(rows, columns, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def test_the_bundle_names_what_is_free(bundle):
    opened = Bundle.open(bundle)
    graph = opened.manifest.graphs["image_any"]
    assert graph.inputs["pixels"].dims == ("B", 3, "Y", "X")
    assert graph.outputs["keys"].dims == ("B", 1, "T", 32)
    assert graph.outputs["spatial_weights"].dims == ("B", 1, "N")
    assert (opened.any_size("image_any"), opened.any_size("image"), opened.any_size("text")) == (True, False, False)
    assert opened.cheapest(frozenset({"gradient"})) == "image"
    assert opened.cheapest(frozenset({"gradient"}), any_size=True) == "image_any"


@pytest.mark.parametrize("method", ["grad_eclip", "chefer", "attention"])
def test_maps_have_the_grid_of_the_photo_and_follow_it(bundle, method):
    explainer = Explainer.load(bundle, resize="keep")
    texts = ["red car", "green tree"]
    found = explainer.explain([photo(70, 101), photo(70, 101, 1)], texts, method=method)
    assert found.maps.shape == (2, 2, 9, 13)  # 70 = 8.75 patches, 101 = 12.6
    assert relative(found.maps[1], found.maps[0]) > 0.05
    assert found.heatmaps()[0].shape[-2:] == (70, 101)
    crop = found.crops[0]
    assert (crop.y0, crop.y1, crop.x0, crop.x1) == (0, 70, 0, 101)
    again = explainer.explain(photo(70, 101), texts, method=method)
    assert relative(again.maps[0], found.maps[0]) <= 1e-4


def test_maps_are_autograds_at_that_size(bundle):
    explainer, source = Explainer.load(bundle, resize="keep"), tiny_source(RAW)
    image, texts = photo(50, 90), ["red car", "green tree"]
    found = explainer.explain(image, texts, method="chefer")
    pixels = explainer.preprocess.prepare(image).pixels[None]
    assert pixels.shape == (1, 3, 48, 88)
    text, mean = torch.from_numpy(explainer.encode_texts(texts)).double(), source.normalisation
    slow = signals(resized_model(RAW, (48, 88)), normalised(pixels, mean.mean, mean.std), text, 1)
    gradient, values = (
        slow[name][:, ..., -1, :] if name == "gradient" else slow[name][:, 0] for name in ("gradient", "values")
    )
    for prompt in range(2):
        for patch in range(6 * 11):
            evidence = [
                max(slow["class_attention"][0, 0, h, 1 + patch]
                    * (gradient[0, prompt, 16 * h : 16 * h + 16] @ values[0, 1 + patch, 16 * h : 16 * h + 16]), 0.0)
                for h in range(2)
            ]  # fmt: skip
            got = found.maps[0, prompt].ravel()[patch]
            assert got == pytest.approx(np.mean(evidence), abs=1e-4 * float(found.maps.max()))


def test_a_photo_of_the_models_own_size_takes_the_graph_of_that_size(bundle):
    image = photo(33, 30)
    kept = Explainer.load(bundle, resize="keep").explain(image, ["red car"])
    squashed = Explainer.load(bundle, resize="squash").explain(image, ["red car"])
    assert (kept.engine["graph"], squashed.engine["graph"]) == ("image", "image")
    assert np.array_equal(kept.maps, squashed.maps)
    wide = Explainer.load(bundle, resize="keep").explain(photo(33, 60), ["red car"])
    assert wide.engine["graph"] == "image_any"


def test_openvino_runs_any_size(bundle):
    pytest.importorskip("openvino")
    image = photo(50, 90)
    onnx, vino = (
        Explainer.load(bundle, resize="keep", provider=name).explain(image, ["red car"], method="chefer")
        for name in ("cpu", "openvino")
    )
    assert relative(vino.maps, onnx.maps) <= 1e-4


def test_embeddings_and_contrasts_at_any_size(bundle):
    explainer, mean = Explainer.load(bundle, resize="keep"), tiny_source(RAW).normalisation
    pixels = explainer.preprocess.prepare(photo(50, 90)).pixels[None]
    with torch.no_grad():
        given = normalised(pixels, mean.mean, mean.std)
        expected = F.normalize(resized_model(RAW, (48, 88)).encode_image(given), dim=-1).numpy()
    assert relative(explainer.encode_images(photo(50, 90)), expected) <= 1e-4
    found = explainer.explain(photo(50, 90), ["red car"], against=["green tree"])
    assert found.maps.shape == (1, 1, 6, 11)


def test_texts_are_explained_for_photos_of_different_sizes(tmp_path):
    export_bundle(tiny_source(RAW), tmp_path / "both", ExportOptions(signals=("sizes", "words")))
    explainer = Explainer.load(tmp_path / "both", resize="keep")
    photos = [photo(70, 101), photo(50, 90)]
    found = explainer.explain(photos, ["red car", "green tree"], side="text")
    embeddings = np.concatenate([explainer.encode_images(one) for one in photos])
    assert np.abs(found.similarities - embeddings @ explainer.encode_texts(["red car", "green tree"]).T).max() <= 1e-5
    alone = explainer.explain(photos[1], ["red car"], side="text")
    assert [word for word, _ in alone.words()] == ["red", "car"]
    assert relative(alone.relevance[0, 0], found.relevance[1, 0]) <= 1e-4


def test_what_any_size_does_not_do_is_said(bundle, tiny_bundle):
    explainer = Explainer.load(bundle, resize="keep")
    with pytest.raises(ImageError, match=r"one size.*48x88, 88x48.*one after the other"):
        explainer.explain([photo(50, 90), photo(90, 50)], ["red car"])
    with pytest.raises(ImageError, match="one size"):
        explainer.encode_images([photo(50, 90), photo(90, 50)])
    with pytest.raises(OptionError, match=r"occlusion runs images of the model's own size.*48x88"):
        explainer.explain(photo(50, 90), ["red car"], method="occlusion")
    with pytest.raises(OptionError, match=r"metrics.*resize keep"):
        explainer.evaluate(photo(50, 90), ["red car"])
    with pytest.raises(SignalError, match=r"at any size.*--signals sizes"):
        Explainer.load(tiny_bundle, resize="keep").explain(photo(50, 90), ["red car"])
    source = tiny_source(tiny_config(vision={"image_size": 36}))
    with pytest.raises(UnsupportedError, match="sizes is not built"):
        export_bundle(source, bundle.parent / "not", ExportOptions(signals=("sizes",)))


@pytest.mark.parametrize(
    ("height", "width", "limit", "expected"),
    [(375, 500, None, (368, 496)), (12, 12, None, (16, 16)), (3, 200, None, (16, 208)), (24, 40, None, (32, 48)),
     (900, 1200, 640, (640, 848)), (300, 400, 640, (304, 400))],
)  # fmt: skip
def test_sides_become_the_nearest_number_of_whole_patches(height, width, limit, expected):
    """floor(x/16 + 1/2) 16; 500x375 is 31 by 23 patches, as in Grad-ECLIP's code."""
    preprocess = Preprocess((224, 224), "keep", patch=(16, 16), limit=limit)
    prepared = preprocess.prepare(photo(height, width))
    assert prepared.pixels.shape == (3, *expected)
    assert prepared.crop == type(prepared.crop).whole(height, width)
    assert Preprocess.from_manifest(preprocess.as_manifest()) == preprocess


@pytest.mark.parametrize(
    "wrong",
    [{"resize": "keep"}, {"patch": (8, 8)}, {"limit": 5}, {"resize": "keep", "patch": (0, 8)},
     {"resize": "keep", "patch": (8, 8), "limit": 0}],
)  # fmt: skip
def test_settings_that_do_not_belong_together_are_errors(wrong):
    with pytest.raises(OptionError, match="allowed"):
        Preprocess((32, 32), **wrong)


@pytest.mark.parametrize("mode", ["paper-code", "notebook"])
def test_grad_eclips_released_code_at_its_own_grid(bundle, mode):
    """One head in the last block on a grid of the photo's: against the slow form of it, through the bundle."""
    image, texts, method = photo(50, 90), ["red car", "green tree", "dog"], GradEclip(mode=mode)
    explainer, mean = Explainer.load(bundle, resize="keep"), tiny_source(RAW).normalisation
    found = explainer.explain([image, photo(50, 90, 1)], texts, method=method)
    assert (found.engine["graph"], found.maps.shape) == ("single_head_any", (2, 3, 6, 11))
    assert relative(found.maps[1], found.maps[0]) > 0.05
    pixels = explainer.preprocess.prepare(image).pixels[None]
    vectors = torch.from_numpy(explainer.encode_texts(texts)).double()
    expected = slow_single_head(resized_model(RAW, (48, 88)), normalised(pixels, mean.mean, mean.std), vectors, mode)
    assert relative(found.maps[0].reshape(3, -1), expected) <= 1e-4


def slow_single_head(model, pixels, text, mode):
    """Grad-ECLIP's released form on open_clip's weights: the last attention with one head, autograd, patch by patch."""
    x = trace(model, pixels)[1]["input"][-1][0]
    block, visual = model.visual.transformer.resblocks[-1], model.visual
    packed = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    query, key, value = packed.chunk(3, dim=-1)
    mixed = (query @ key.T / query.shape[1] ** 0.5).softmax(-1) @ value
    y = x + block.ls_1(block.attn.out_proj(mixed))
    z = y + block.ls_2(block.mlp(block.ln_2(y)))
    embedding = visual.ln_post(z[:1]) @ visual.proj
    maps = []
    q, k = query, key
    if mode == "paper-code":
        q, k = (block.ls_1(block.attn.out_proj(t)) for t in (query, key))
    weights = spatial_weights(q[0].detach().numpy(), k.detach().numpy())
    for vector in text:
        gradient = torch.autograd.grad(F.cosine_similarity(embedding, vector[None])[0], mixed, retain_graph=True)[0][0]
        evidence = (value[1:] @ gradient).detach().numpy()
        maps.append(np.maximum(evidence * weights, 0))
    return np.stack(maps)
