"""Graphs of SigLIP, CoCa and average-pooled towers against autograd through open_clip's and timm's own modules."""

import numpy as np
import pytest
import torch

from eyeshine.errors import UnsupportedError
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.towers import encode_graph, explain_graph, text_graph
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.reference import explain_reference, text_reference
from oracle import evaluate, normalised, relative, run_onnxruntime
from tiny import VOCABULARY, arrays, tiny_model
from towers import TOWERS, tower_signals, tower_source

CASES = [(name, 1) for name in TOWERS] + [(name, 3) for name in TOWERS if "mean" in name or name == "clipa"]


def graph_of(source, layers, dtype=np.float64, **form):
    normalisation, config = source.normalisation, source.config
    state = arrays(source, dtype)
    weights = vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    form = Form(dtype=dtype, **form)
    return explain_graph(config, weights, layers, form) if layers else encode_graph(config, weights, form)


def inputs_of(source, images=2, prompts=3, dtype=np.float64):
    random = np.random.default_rng(0)
    text = random.standard_normal((prompts, source.config.embed_dim))
    return {
        "pixels": random.random((images, 3, *source.config.vision.image_size)).astype(dtype), "text": text.astype(dtype)
    }  # fmt: skip


def expected_of(raw, source, inputs, layers):
    normalisation = source.normalisation
    text, pixels = torch.from_numpy(inputs["text"]).double(), inputs["pixels"]
    theirs = tower_signals(raw, normalised(pixels, normalisation.mean, normalisation.std), text, layers)
    state = {name: tensor.double() for name, tensor in source.state.items()}
    given = torch.from_numpy(pixels).double()
    ours = explain_reference(
        state, source.config, given, text, layers, normalisation.mean, normalisation.std
    )  # fmt: skip
    for name, value in theirs.items():
        assert relative(ours[name].numpy(), value) <= 1e-10, name
    return theirs


@pytest.mark.parametrize(("name", "layers"), CASES)
def test_float64_equals_autograd_through_the_library_and_on_the_reference(name, layers):
    source = tower_source(TOWERS[name])
    inputs = inputs_of(source)
    got, expected = evaluate(graph_of(source, layers), inputs), expected_of(TOWERS[name], source, inputs, layers)
    assert got.keys() == expected.keys()
    for output, value in expected.items():
        assert relative(got[output], value) <= 1e-11, output


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", ["siglip", "coca", "clipa"])
def test_onnxruntime_float32_with_any_number_of_images_and_texts(name, opset):
    source = tower_source(TOWERS[name])
    for images, prompts in ((1, 1), (3, 5)):
        inputs = inputs_of(source, images, prompts, np.float32)
        expected = expected_of(TOWERS[name], source, inputs, 1)
        got = run_onnxruntime(graph_of(source, 1, np.float32, opset=opset), inputs)
        for output, value in expected.items():
            assert relative(got[output], value) <= 1e-4, output
        encoded = run_onnxruntime(graph_of(source, 0, np.float32, opset=opset), {"pixels": inputs["pixels"]})
        assert relative(encoded["embedding"], expected["embedding"]) <= 1e-4


def test_what_stands_for_a_class_token_is_zero_and_nothing_attends_to_it():
    source = tower_source(TOWERS["siglip"])
    got = evaluate(graph_of(source, 1), inputs_of(source))
    for name in ("keys", "values"):
        assert (got[name][:, :, 0] == 0).all()
        assert (got[name][:, :, 1:] != 0).all()
    assert (got["class_attention"][..., 0] == 0).all()
    assert got["class_attention"].sum(-1) == pytest.approx(1)


def test_more_blocks_than_the_pooler_are_refused():
    for name in ("siglip", "coca"):
        with pytest.raises(UnsupportedError, match=r"only the pooler.*--layers"):
            graph_of(tower_source(TOWERS[name]), 2)


def test_the_mean_row_is_what_a_shift_of_all_rows_moves():
    """The gradient of an average-pooled tower is dc/d(a vector added to every patch's row of O): by difference."""
    raw = TOWERS["clipa"]
    source = tower_source(raw)
    inputs = inputs_of(source, 1, 1)
    gradient = evaluate(graph_of(source, 1), inputs)["gradient"][0, 0, 0]
    model, text = tiny_model(raw).double(), torch.from_numpy(inputs["text"])
    pixels = normalised(inputs["pixels"], source.normalisation.mean, source.normalisation.std)
    block, direction = model.visual.transformer.resblocks[-1], np.random.default_rng(1).standard_normal(len(gradient))

    def cosine(step):
        shift = block.attn.out_proj.weight @ torch.from_numpy(step * direction)
        moved = torch.cat([torch.zeros(1, len(shift)).double(), shift.expand(16, -1)])

        def add(attn, given, out):
            return (out[0] + moved, *out[1:])

        hook = block.attn.register_forward_hook(add)
        with torch.no_grad():
            found = torch.cosine_similarity(model.encode_image(pixels), text).item()
        hook.remove()
        return found

    assert (cosine(1e-5) - cosine(-1e-5)) / 2e-5 == pytest.approx(gradient @ direction, rel=1e-6)


LAST = len(VOCABULARY) - 1


def texts(lengths, width=12, seed=0):
    random = np.random.default_rng(seed)
    tokens = np.zeros((len(lengths), width), dtype=np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = random.integers(3, LAST - 1, length)
        row[length - 1] = LAST
    return tokens


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", [n for n in TOWERS if not n.startswith("mean")])
def test_texts_equal_open_clips_encode_text(name, opset):
    """Whole contexts, short ones, and one that fills it, where CoCa's token sees itself."""
    source = tower_source(TOWERS[name])
    config, tokens = source.config, texts([5, 12, 2, 11])
    with torch.no_grad():
        expected = tiny_model(TOWERS[name]).double().encode_text(torch.from_numpy(tokens), normalize=True).numpy()
    for dtype, run, tolerance in ((np.float64, evaluate, 1e-12), (np.float32, run_onnxruntime, 1e-5)):
        weights = text_weights(arrays(source, dtype), config.text, config.embed_dim)
        model = text_graph(config, weights, Form(opset, dtype=dtype))
        assert relative(run(model, {"tokens": tokens})["text_embedding"], expected) <= tolerance
    state = {key: tensor.double() for key, tensor in source.state.items()}
    assert relative(text_reference(state, config, torch.from_numpy(tokens)).numpy(), expected) <= 1e-12


def test_padding_counts_where_the_whole_context_is_read():
    raw = TOWERS["siglip"]
    source = tower_source(raw)
    model = text_graph(
        source.config, text_weights(arrays(source), source.config.text, source.config.embed_dim), Form(dtype=np.float64)
    )
    assert model.graph.inputs[0].shape[1] == 12
    padded, other = texts([4]), texts([4])
    other[0, 8] = 5
    first, second = (evaluate(model, {"tokens": t})["text_embedding"] for t in (padded, other))
    assert relative(second, first) > 1e-2
