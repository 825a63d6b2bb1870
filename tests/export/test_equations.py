"""The equations behind the graphs, written out slowly, and the claims that let the graphs be small."""

import math

import numpy as np
import pytest
import torch

from eyeshine_export.config import TowerConfig
from eyeshine_export.graph.forward import Tower
from eyeshine_export.graph.ops import Form, Graph
from eyeshine_export.graph.towers import explain_graph
from eyeshine_export.graph.vjp import Vjp
from eyeshine_export.graph.weights import vision_weights
from oracle import cosines, evaluate, normalised, relative, trace
from tiny import EPS, tiny_config, tiny_model, tiny_source

RAW = {
    "gelu": tiny_config(vision={"ls_init_value": 0.1}),
    "quick_gelu": tiny_config(vision={"ls_init_value": 0.1}, quick_gelu=True),
}


def slope(activation, a):
    """act'(a), one number."""
    if activation == "quick_gelu":
        s = 1 / (1 + math.exp(-1.702 * a))
        return s * (1 + 1.702 * a * (1 - s))
    cumulative = (1 + math.erf(a / math.sqrt(2))) / 2
    return cumulative + a * math.exp(-a * a / 2) / math.sqrt(2 * math.pi)


def statistics(x):
    """x-hat and sigma of one row."""
    mean = sum(x) / len(x)
    sigma = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + EPS)
    return np.array([(value - mean) / sigma for value in x]), sigma


def norm_transposed(x, scale, g):
    """LNᵀ(x; g) = (γg - mean(γg) - x̂·mean(γg⊙x̂))/σ."""
    xhat, sigma = statistics(x)
    scaled = scale * g
    return (scaled - scaled.mean() - xhat * (scaled * xhat).mean()) / sigma


def norm(x, scale, bias):
    return statistics(x)[0] * scale + bias


def one_token_vjp(weights, activation, text, mixed, before):
    """g = dc/dO[CLS] of the last block from O[CLS] and X[CLS], step by step under the names of the derivation."""
    at = "visual.transformer.resblocks.3."
    w = {name.removeprefix(at): value for name, value in weights.items()}
    y = before + w["ls_1.gamma"] * (w["attn.out_proj.weight"] @ mixed + w["attn.out_proj.bias"])
    a = w["mlp.c_fc.weight"] @ norm(y, w["ln_2.weight"], w["ln_2.bias"]) + w["mlp.c_fc.bias"]
    active = a / (1 + np.exp(-1.702 * a)) if activation == "quick_gelu" else [
        v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in a
    ]  # fmt: skip
    z = y + w["ls_2.gamma"] * (w["mlp.c_proj.weight"] @ active + w["mlp.c_proj.bias"])
    e = norm(z, weights["visual.ln_post.weight"], weights["visual.ln_post.bias"]) @ weights["visual.proj"]

    length = math.sqrt(e @ e)
    t_unit, e_unit = text / math.sqrt(text @ text), e / length
    g_e = (t_unit - (t_unit @ e_unit) * e_unit) / length
    g_z = norm_transposed(z, weights["visual.ln_post.weight"], weights["visual.proj"] @ g_e)
    hidden = w["mlp.c_proj.weight"].T @ (w["ls_2.gamma"] * g_z)
    hidden = np.array([slope(activation, value) for value in a]) * hidden
    g_y = g_z + norm_transposed(y, w["ln_2.weight"], w["mlp.c_fc.weight"].T @ hidden)
    return w["attn.out_proj.weight"].T @ (w["ls_1.gamma"] * g_y)


class Case:
    """A model, its trace on one image, two texts, and the graph's answer."""

    def __init__(self, activation):
        self.source = tiny_source(RAW[activation])
        config, normalisation = self.source.config, self.source.normalisation
        self.weights = {name: tensor.double().numpy() for name, tensor in self.source.state.items()}
        random = np.random.default_rng(3)
        pixels = random.random((1, 3, *config.vision.image_size))
        self.text = random.standard_normal((2, config.embed_dim))
        prepared = normalised(pixels, normalisation.mean, normalisation.std)
        embedding, self.kept = trace(tiny_model(RAW[activation]).double(), prepared)
        self.cosine = cosines(embedding, torch.from_numpy(self.text))[0]
        vision = vision_weights(self.weights, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
        graph = explain_graph(config, vision, 1, Form(dtype=np.float64))
        self.signals = evaluate(graph, {"pixels": pixels, "text": self.text})

    def autograd(self, prompt, name, block=-1):
        (gradient,) = torch.autograd.grad(self.cosine[prompt], self.kept[name][block], retain_graph=True)
        return gradient[0].numpy()

    def value(self, name, block=-1):
        return self.kept[name][block][0].detach().numpy()


@pytest.fixture(scope="module", params=sorted(RAW))
def activation(request):
    return request.param


@pytest.fixture(scope="module")
def case(activation):
    return Case(activation)


@pytest.mark.parametrize("prompt", [0, 1])
def test_the_one_token_vjp_written_out(case, activation, prompt):
    slow = one_token_vjp(
        case.weights, activation, case.text[prompt], case.value("mixed")[0], case.value("input")[0]
    )  # fmt: skip
    assert relative(slow, case.autograd(prompt, "mixed")[0]) <= 1e-12
    assert relative(case.signals["gradient"][0, prompt, 0], slow) <= 1e-12


def test_only_the_class_row_of_the_last_attention_output_carries_gradient(case):
    last, before = case.autograd(0, "mixed"), case.autograd(0, "mixed", -2)
    assert np.abs(last[0]).max() > 0
    assert np.abs(last[1:]).max() == 0
    assert np.abs(before[1:]).max() > 0  # so the claim is about the last block alone


def test_gradient_times_values_is_the_gradient_of_attention_summed_over_heads(case):
    for prompt in range(2):
        by_signals = case.signals["values"][0, 0] @ case.signals["gradient"][0, prompt, 0]
        by_attention = case.autograd(prompt, "attention")[:, 0].sum(axis=0)
        assert relative(by_signals, by_attention) <= 1e-12


def test_gradient_and_values_give_the_gradient_of_each_heads_attention(case):
    heads = case.source.config.vision.heads
    values = case.signals["values"][0, 0].reshape(-1, heads, 16)
    gradient = case.signals["gradient"][0, 1, 0].reshape(heads, 16)
    per_head = np.einsum("hd,ihd->hi", gradient, values)
    assert relative(per_head, case.autograd(1, "attention")[:, 0]) <= 1e-12


def test_what_the_last_block_sends_down_has_rank_two_per_head(case):
    """Beyond the class row, dc/dU has rank 2H: only the class query attends. LN1ᵀ then mixes in each row's x-hat."""
    heads = case.source.config.vision.heads
    rank = lambda x: int(np.linalg.matrix_rank(x, tol=1e-10 * np.abs(x).max()))
    assert rank(case.autograd(0, "normed")[1:]) == 2 * heads
    assert rank(case.autograd(0, "input")[1:]) > 2 * heads
    assert rank(case.autograd(0, "normed", -2)[1:]) > 2 * heads  # and it is so in the last block alone


def small_graph(build, **inputs):
    """Evaluate ``build(graph, **values)`` in float64."""
    g = Graph(Form(dtype=np.float64))
    result = build(g, **{name: g.input(name, list(value.shape)) for name, value in inputs.items()})
    g.output("out", result, ["..."])
    return evaluate(g.model("small", ""), inputs)["out"]


def tower(g, activation="gelu"):
    return Tower(g, TowerConfig(8, 1, 2, activation, EPS), causal=False)


def test_the_vjp_of_a_layer_norm():
    random = np.random.default_rng(0)
    x, cotangent = random.standard_normal((3, 8)), random.standard_normal((3, 8))
    scale, bias = random.standard_normal(8), random.standard_normal(8)

    def build(g, x, cotangent):
        vjp = Vjp(tower(g), g.integers(1), g.integers(1))
        return vjp.norm(cotangent, vjp.tower.norm_kept(x, "norm", (scale, bias)))

    got = small_graph(build, x=x, cotangent=cotangent)
    slow = np.stack([norm_transposed(row, scale, g) for row, g in zip(x, cotangent, strict=True)])
    assert relative(got, slow) <= 1e-13
    step = 1e-6  # and both are the derivative
    numeric = [(norm(x[0] + d, scale, bias) - norm(x[0] - d, scale, bias)) @ cotangent[0] for d in step * np.eye(8)]
    assert relative(slow[0], np.array(numeric) / (2 * step)) <= 1e-8


def test_activation_and_slope(activation):
    a = np.concatenate([np.linspace(-12, 12, 97), [0.0]])
    function = torch.nn.GELU() if activation == "gelu" else lambda x: x * torch.sigmoid(1.702 * x)
    leaf = torch.from_numpy(a).requires_grad_()
    value = function(leaf)
    (by_autograd,) = torch.autograd.grad(value.sum(), leaf)
    got = small_graph(lambda g, a: tower(g, activation).activation_kept(a).slope, a=a)
    assert relative(got, by_autograd.numpy()) <= 1e-14
    assert relative(got, np.array([slope(activation, v) for v in a])) <= 1e-14
    for build in (lambda t, a: t.activation_kept(a).value, lambda t, a: t.activation(a, t.trunk)):
        assert (
            relative(small_graph(lambda g, a, b=build: b(tower(g, activation), a), a=a), value.detach().numpy())
            <= 1e-14
        )


def test_leaving_layer_scale_out_would_show(case, activation):
    """The tolerance means something: the same derivation without LayerScale is far off."""
    without = {name: np.ones_like(w) if "gamma" in name else w for name, w in case.weights.items()}
    wrong = one_token_vjp(without, activation, case.text[0], case.value("mixed")[0], case.value("input")[0])
    assert relative(wrong, case.signals["gradient"][0, 0, 0]) > 0.1
