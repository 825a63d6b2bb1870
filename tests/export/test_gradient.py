"""Graphs with the gradient written as forward operations, against autograd on open_clip's modules and on a reference.

In float64, with onnx's reference evaluator, agreement is to rounding: no term can be missing, however small.
"""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.towers import encode_graph, explain_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.reference import explain_reference
from oracle import evaluate, normalised, relative, run_onnxruntime, signals
from tiny import arrays, tiny_config, tiny_model, tiny_source

SHAPES = {
    "plain": {},
    "quickgelu": {"quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True}},
    "LayerScale": {"vision": {"ls_init_value": 0.1}, "quick_gelu": True},
    "wide image": {"vision": {"image_size": [16, 40]}},
    "tall patch": {"vision": {"image_size": [36, 24], "patch_size": [12, 4]}},
    "patch does not divide": {"vision": {"image_size": [35, 29]}},
    "three heads": {"vision": {"width": 12, "head_width": 4}, "quick_gelu": True},
    "one head": {"vision": {"width": 16}},
    "five heads of six": {"vision": {"width": 30, "head_width": 6}},
    "narrow MLP": {"vision": {"mlp_ratio": 1.5}},
    "one patch": {"vision": {"image_size": 8}},
}


def graph_of(source, layers, dtype=np.float64, opset=23):
    normalisation, config = source.normalisation, source.config
    weights = vision_weights(
        arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std
    )
    form = Form(opset, dtype=dtype)
    return explain_graph(config, weights, layers, form) if layers else encode_graph(config, weights, form)


def inputs_of(source, images, prompts, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    pixels = random.random((images, 3, *source.config.vision.image_size))
    return {
        "pixels": pixels.astype(dtype),
        "text": (3 * random.standard_normal((prompts, source.config.embed_dim))).astype(dtype),
    }


def expected_of(raw, source, inputs, layers, seed=0):
    normalisation = source.normalisation
    pixels = normalised(inputs["pixels"], normalisation.mean, normalisation.std)
    return signals(tiny_model(raw, seed).double(), pixels, torch.from_numpy(inputs["text"]).double(), layers)


def reference_of(source, inputs, layers):
    found = explain_reference(
        {name: tensor.double() for name, tensor in source.state.items()},
        source.config,
        torch.from_numpy(inputs["pixels"]).double(),
        torch.from_numpy(inputs["text"]).double(),
        layers,
        source.normalisation.mean,
        source.normalisation.std,
    )
    return {name: tensor.numpy() for name, tensor in found.items()}


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    errors = {name: relative(got[name], expected[name]) for name in got}
    assert max(errors.values()) <= tolerance, errors


def test_the_second_oracle_is_open_clip_itself():
    raw = tiny_config(vision={"ls_init_value": 0.1}, quick_gelu=True)
    source, model = tiny_source(raw), tiny_model(raw).double()
    inputs = inputs_of(source, 2, 1)
    pixels = normalised(inputs["pixels"], source.normalisation.mean, source.normalisation.std)
    with torch.no_grad():
        whole = model.encode_image(pixels, normalize=True).numpy()
    assert relative(expected_of(raw, source, inputs, 1)["embedding"], whole) <= 1e-12


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_autograd_on_both_oracles(shape, layers):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source, 2, 3)
    got = evaluate(graph_of(source, layers), inputs)
    assert_close(got, expected_of(raw, source, inputs, layers), 1e-11)
    assert_close(got, reference_of(source, inputs, layers), 1e-11)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("shape", ["plain", "LayerScale", "five heads of six", "patch does not divide"])
def test_onnxruntime_float32_with_dynamic_images_and_prompts(shape, images, prompts, layers):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source, images, prompts, dtype=np.float32)
    got = run_onnxruntime(graph_of(source, layers, np.float32), inputs)
    assert {value.dtype for value in got.values()} == {np.dtype(np.float32)}
    assert_close(got, expected_of(raw, source, inputs, layers), 1e-4)


@pytest.mark.parametrize("layers", [0, 1, 2, 4])
@pytest.mark.parametrize("shape", ["plain", "LayerScale"])
def test_attention_written_out_is_the_same(shape, layers):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source, 2, 3)
    names = inputs if layers else ["pixels"]
    got = evaluate(graph_of(source, layers, opset=20), {name: inputs[name] for name in names})
    expected = expected_of(raw, source, inputs, max(layers, 1))
    assert_close(got, {name: expected[name] for name in got}, 1e-11)
    assert layers == 0 or got.keys() == expected.keys()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_block_of_a_shallow_tower_can_be_explained(depth):
    raw = tiny_config(vision={"layers": depth})
    source = tiny_source(raw)
    inputs = inputs_of(source, 2, 2)
    assert_close(evaluate(graph_of(source, depth), inputs), expected_of(raw, source, inputs, depth), 1e-11)


@pytest.mark.parametrize("shape", ["plain", "LayerScale", "no ln_pre", "tall patch"])
def test_encode_is_open_clips_embedding(shape):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source, 3, 1)
    got = evaluate(graph_of(source, 0), {"pixels": inputs["pixels"]})
    assert_close(got, {"embedding": expected_of(raw, source, inputs, 1)["embedding"]}, 1e-11)


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.data())
def test_any_shape(data):
    number = lambda low, high: data.draw(st.integers(low, high))
    patch = (number(1, 5), number(1, 5))
    image = [side * number(1, 4) + data.draw(st.integers(0, side - 1)) for side in patch]
    heads, head_width, depth = number(1, 5), number(4, 9), number(1, 4)  # one channel has no LayerNorm
    vision = {
        "image_size": image, "patch_size": patch, "width": heads * head_width, "head_width": head_width,
        "layers": depth, "no_ln_pre": data.draw(st.booleans()),
        "ls_init_value": data.draw(st.sampled_from([None, 0.1])), "mlp_ratio": data.draw(st.sampled_from([0.75, 4.0])),
    }  # fmt: skip
    raw = tiny_config(vision, quick_gelu=data.draw(st.booleans()), embed_dim=number(2, 40))
    seed, layers = number(0, 5), number(1, depth)
    source = tiny_source(raw, seed)
    inputs = inputs_of(source, number(1, 3), number(1, 5), seed)
    got = evaluate(graph_of(source, layers), inputs)
    # Few channels make a LayerNorm ill-conditioned, hence more room than for the fixed shapes.
    assert_close(got, expected_of(raw, source, inputs, layers, seed), 1e-9)


def test_the_gradient_follows_image_and_text():
    """Fails where a gradient was frozen into the graph as a constant of the image, the text or the batch it saw."""
    raw = tiny_config()
    source = tiny_source(raw)
    graph = graph_of(source, 3)
    one, other = inputs_of(source, 2, 3, seed=1), inputs_of(source, 2, 3, seed=2)
    first, second = evaluate(graph, one), evaluate(graph, other)
    assert relative(second["gradient"], first["gradient"]) > 0.1
    assert_close(second, expected_of(raw, source, other, 3), 1e-11)

    new_text = evaluate(graph, {"pixels": one["pixels"], "text": other["text"]})
    assert np.array_equal(new_text["values"], first["values"])
    assert relative(new_text["gradient"], first["gradient"]) > 0.1


def test_text_of_any_length_gives_the_same():
    source = tiny_source()
    inputs = inputs_of(source, 1, 2)
    longer = {**inputs, "text": inputs["text"] * np.array([[7.0], [0.01]])}
    graph = graph_of(source, 2)
    assert_close(evaluate(graph, longer), evaluate(graph, inputs), 1e-12)


def test_images_of_a_batch_do_not_touch_each_other():
    source = tiny_source()
    inputs, graph = inputs_of(source, 3, 2), graph_of(source, 4)
    batch = evaluate(graph, inputs)
    alone = evaluate(graph, {**inputs, "pixels": inputs["pixels"][1:2]})
    assert_close(alone, {name: value[1:2] for name, value in batch.items()}, 1e-12)
