"""The captioner's graphs against its PyTorch model, gradients by autograd, in float64."""

import numpy as np
import pytest
import torch

from eyeshine_export.captioner.graphs import decode_graph, explain_graph, memory_graph
from eyeshine_export.captioner.model import Captioner, Shape, Trace
from eyeshine_export.graph.ops import Form
from oracle import evaluate, relative, run_onnxruntime

SHAPE = Shape(words=11, patches=6, columns=3, features=10, width=12, heads=3, layers=3, context=9)
EXACT = 1e-11  # docs/numerics.md: graphs built in float64


@pytest.fixture(scope="module")
def case():
    """A model with random weights, biases and gains included, and three sequences of seven words."""
    torch.manual_seed(0)
    model = Captioner(SHAPE).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    random = np.random.default_rng(0)
    features = random.standard_normal((3, SHAPE.patches, SHAPE.features))
    tokens = random.integers(0, SHAPE.words, (3, 7))
    response = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0.5, 0]])
    return model, features, tokens, response


def expected(model, features, tokens, response):
    """Everything ``explain`` yields, from the model's own forward pass and one call of autograd."""
    keys, values = (x.detach().requires_grad_() for x in model.memory(torch.from_numpy(features)))
    trace = Trace()
    logs = model(torch.from_numpy(tokens)[:, None], keys, values, trace)[:, 0].log_softmax(-1)
    given = torch.zeros(tokens.shape, dtype=torch.float64)
    for row in range(len(tokens)):
        for place in range(1, tokens.shape[1]):
            given[row, place] = logs[row, place - 1, tokens[row, place]]
    total = (given * torch.from_numpy(response)).sum()
    asked = (*trace.cross_out, *trace.self_attention, values)
    found = torch.autograd.grad(total, asked, allow_unused=True)
    layers = SHAPE.layers

    def stack(parts):
        return torch.stack([part[:, 0] for part in parts], 1).detach().numpy()

    return {
        "log_probabilities": given.detach().numpy(),
        "cross_query": stack(trace.cross_query),
        "cross_attention": stack(trace.cross_attention),
        "cross_gradient": stack(found[:layers]),
        "self_attention": stack(trace.self_attention),
        "self_gradient": stack(found[layers : 2 * layers]),
    }, (keys.detach().numpy(), values.detach().numpy(), found[-1].numpy(), logs.detach().numpy())


def arrays(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_every_output_equals_autograd_in_float64(case):
    model, features, tokens, response = case
    wanted, (keys, values, _, logs) = expected(*case)
    form = Form(dtype=np.float64)
    memory = evaluate(memory_graph(SHAPE, arrays(model), form), {"features": features})
    assert {name: relative(memory[name], x) <= EXACT for name, x in (("keys", keys), ("values", values))} == {
        "keys": True, "values": True,
    }  # fmt: skip
    inputs = {"tokens": tokens, "keys": keys, "values": values}
    decoded = evaluate(decode_graph(SHAPE, arrays(model), form), inputs)["log_probabilities"]
    assert relative(decoded, logs) <= EXACT
    got = evaluate(explain_graph(SHAPE, arrays(model), form), {**inputs, "response": response})
    assert got.keys() == wanted.keys()
    errors = {name: relative(got[name], wanted[name]) for name in wanted}
    assert {name: error for name, error in errors.items() if error > EXACT} == {}


def test_onnxruntime_computes_the_same_in_float32(case):
    model, _, tokens, response = case
    wanted, (keys, values, *_) = expected(*case)
    inputs = {"tokens": tokens, **{k: v.astype(np.float32) for k, v in
              (("keys", keys), ("values", values), ("response", response))}}  # fmt: skip
    got = run_onnxruntime(explain_graph(SHAPE, arrays(model)), inputs)
    errors = {name: relative(got[name], wanted[name]) for name in wanted}
    assert {name: error for name, error in errors.items() if error > 1e-4} == {}


def test_attention_and_gradient_give_the_gradient_of_every_patch(case):
    """dL/dV[n] = sum over words and heads of A[t, n] g[t], against autograd's gradient of the values."""
    wanted, (_, values, by_autograd, _) = expected(*case)
    attention, gradient = wanted["cross_attention"], wanted["cross_gradient"]
    heads = gradient.reshape(*gradient.shape[:3], SHAPE.heads, -1)
    closed = np.einsum("blhtn,blthd->blnhd", attention, heads).reshape(values.shape)
    assert relative(closed, by_autograd) <= EXACT


def test_a_word_moves_only_its_own_row_of_the_last_layer(case):
    """So the last layer's maps of single words need no run of their own; in layers below they do."""
    model, features, tokens, response = case
    alone = np.zeros_like(response)
    alone[:, 5] = response[:, 5]
    all_words, _ = expected(model, features, tokens, response)
    one_word, _ = expected(model, features, tokens, alone)
    last = one_word["cross_gradient"][:, -1]
    assert relative(last[:2, 4], all_words["cross_gradient"][:2, -1, 4]) <= EXACT
    assert np.abs(np.delete(last, 4, axis=1)).max() == 0
    assert np.abs(one_word["cross_gradient"][1, 0, :4]).max() > 0
