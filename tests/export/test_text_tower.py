"""The text graph against open_clip's ``encode_text``."""

import numpy as np
import pytest
import torch

from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.towers import text_graph
from eyeshine_export.graph.weights import text_weights
from oracle import evaluate, relative, run_onnxruntime
from tiny import VOCABULARY, arrays, tiny_config, tiny_model, tiny_source

LAST = len(VOCABULARY) - 1
CASES = {
    "argmax": {},
    "quickgelu": {"quick_gelu": True},
    "LayerScale": {"text": {"ls_init_value": 0.1}},
    "one block": {"text": {"layers": 1}},
    "five heads of six": {"text": {"width": 30, "heads": 5, "mlp_ratio": 1.5}},
    "eos": {"text": {"pool_type": "eos", "eos_id": 7}},
    "text. prefix": {"custom_text": True},
}


def graph_of(source, dtype=np.float64, opset=23):
    weights = text_weights(arrays(source, dtype), source.config.text, source.config.embed_dim)
    return text_graph(source.config, weights, Form(opset, dtype=dtype))


def tokens_of(end, lengths, width=12, seed=0):
    """Random ids with the end token at the last place of each text, zeros after it."""
    random = np.random.default_rng(seed)
    tokens = np.zeros((len(lengths), width), dtype=np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = random.choice([i for i in range(3, LAST - 1) if i != end], length)
        row[length - 1] = end
    return tokens


def expected_of(raw, tokens):
    with torch.no_grad():
        return tiny_model(raw).double().encode_text(torch.from_numpy(tokens), normalize=True).numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("lengths", "opset"), [([5], 23), ([12, 1, 7, 2], 23), ([12, 1, 7, 2], 20)])
def test_float64_equals_open_clip(case, lengths, opset):
    raw = tiny_config(**CASES[case])
    source = tiny_source(raw)
    tokens = tokens_of(7 if case == "eos" else LAST, lengths)
    got = evaluate(graph_of(source, opset=opset), {"tokens": tokens})["text_embedding"]
    assert relative(got, expected_of(raw, tokens)) <= 1e-12


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("case", ["argmax", "eos", "five heads of six"])
def test_onnxruntime_float32_with_any_number_of_texts(case, count):
    raw = tiny_config(**CASES[case])
    tokens = tokens_of(7 if case == "eos" else LAST, range(2, 2 + count))
    got = run_onnxruntime(graph_of(tiny_source(raw), np.float32), {"tokens": tokens})["text_embedding"]
    assert got.dtype == np.float32
    assert relative(got, expected_of(raw, tokens)) <= 1e-4


def test_padding_can_be_cut_off():
    raw = tiny_config()
    tokens = tokens_of(LAST, [3, 5])
    graph = graph_of(tiny_source(raw), np.float32)
    whole = expected_of(raw, tokens)
    for width in (5, 6, 11, 12):
        assert relative(run_onnxruntime(graph, {"tokens": tokens[:, :width]})["text_embedding"], whole) <= 1e-5
    cut_inside = run_onnxruntime(graph, {"tokens": tokens[:, :4]})["text_embedding"]
    assert relative(cut_inside, whole) > 1e-2


def test_what_follows_the_end_is_not_seen_and_what_precedes_it_is():
    graph = graph_of(tiny_source())
    tokens = tokens_of(LAST, [5])
    before, after = tokens.copy(), tokens.copy()
    before[0, 2] += 1
    after[0, 6:] = 4
    whole, changed, same = (evaluate(graph, {"tokens": t})["text_embedding"] for t in (tokens, before, after))
    assert np.array_equal(same, whole)
    assert relative(changed, whole) > 1e-2


@pytest.mark.parametrize("case", ["argmax", "eos"])
def test_the_first_of_several_end_tokens_counts(case):
    """A text may spell the end token out; open_clip takes the first one."""
    raw = tiny_config(**CASES[case])
    end = 7 if case == "eos" else LAST
    tokens = tokens_of(end, [8])
    tokens[0, 3] = end
    assert (
        relative(evaluate(graph_of(tiny_source(raw)), {"tokens": tokens})["text_embedding"], expected_of(raw, tokens))
        <= 1e-12
    )
    moved = tokens_of(end, [8])
    assert relative(expected_of(raw, moved), expected_of(raw, tokens)) > 1e-2


def test_a_projection_stored_as_a_layer_is_read_transposed():
    source = tiny_source()
    plain = arrays(source)
    layer = {**plain, "text_projection.weight": plain["text_projection"].T.copy()}
    del layer["text_projection"]
    config = source.config
    read = [text_weights(state, config.text, config.embed_dim).projection for state in (plain, layer)]
    assert np.array_equal(*read)
