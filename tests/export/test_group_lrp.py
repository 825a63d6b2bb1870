"""The group "lrp": modified gradients against the rules themselves, relevance handed down layer by layer.

The rules say how a layer's relevance is shared among its inputs. That a gradient with switches, times the input, is the
same is the claim of Achtibat et al. (AttnLRP, 2024); here no gradient is taken at all.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eyeshine_export.graph.lrp import ATTNLRP, CPLRP
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.pixels import pixels_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.groups.lrp import LRP
from eyeshine_export.oracle import Oracle
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import evaluate, relative
from tiny import arrays, tiny_config, tiny_source

RULES = {"attnlrp": ATTNLRP, "cplrp": CPLRP}
SHAPES = {
    "plain": {},
    "LayerScale": {"vision": {"ls_init_value": 0.1}, "quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True, "image_size": [16, 40]}},
    "tanh": {"vision": {"act_kwargs": {"approximate": "tanh"}, "image_size": 16}},
    "one block": {"vision": {"layers": 1}},
    "patch does not divide": {"vision": {"image_size": [35, 29], "layers": 2}, "quick_gelu": True},
}


def graph_of(source, rules, opset=23):
    config, normalisation = source.config, source.normalisation
    weights = vision_weights(arrays(source), config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    return pixels_graph(config, weights, RULES[rules], Form(opset, dtype=np.float64))


def inputs_of(source, images=2, prompts=3, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.random((images, 3, *source.config.vision.image_size))
    return {"pixels": pixels, "text": 3 * random.standard_normal((prompts, source.config.embed_dim))}


def relevance_of(source, gradient, pixels):
    """Gradient [B, P, 3, Y, X] times the normalised image: std cancels."""
    return gradient * (pixels - np.reshape(source.normalisation.mean, (3, 1, 1)))[:, None]


def activate(activation, a):
    if activation == "quick_gelu":
        return a / (1 + np.exp(-1.702 * a))
    tanh = "tanh" if activation == "gelu_tanh" else "none"
    return torch.nn.functional.gelu(torch.from_numpy(a), approximate=tanh).numpy()


class Rules:
    """A tower on one image, its values kept; relevance goes down by the epsilon rule with epsilon 0."""

    def __init__(self, source, through_attention):
        self.source, self.vision = source, source.config.vision
        visual = {name: value for name, value in arrays(source).items() if name.startswith("visual.")}
        self.w = {name.removeprefix("visual."): value for name, value in visual.items()}
        self.through_attention = through_attention

    def relevance(self, image, text):
        """[3, Y', X'] of the whole patches, for the cosine with one text."""
        vision, normalisation = self.vision, self.source.normalisation
        mean, std = (np.reshape(x, (3, 1, 1)) for x in (normalisation.mean, normalisation.std))
        (rows, columns), (high, wide) = vision.grid, vision.patch_size
        cut = ((image - mean) / std)[:, : rows * high, : columns * wide]
        patches = cut.reshape(3, rows, high, columns, wide).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
        kernel = self.w["conv1.weight"].reshape(vision.width, -1)
        conv = np.concatenate([np.zeros((1, vision.width)), patches @ kernel.T])
        constant = self.w["positional_embedding"].copy()
        constant[0] += self.w["class_embedding"]
        first = conv + constant
        x, back = (first, None) if not vision.pre_norm else self.norm(first, "ln_pre")
        down = [] if back is None else [back]
        for block in range(vision.layers):
            x, back = self.block(x, f"transformer.resblocks.{block}.")
            down.append(back)
        head, back = self.norm(x[:1], "ln_post")
        embedding, to_head = self.linear(head, self.w["proj"].T, 0.0)
        unit_text, length = text / np.linalg.norm(text), np.linalg.norm(embedding)
        relevance = np.zeros_like(x)
        relevance[:1] = back(to_head(embedding * unit_text / length))
        for back in reversed(down):
            relevance = back(relevance)
        at_patches = (conv * relevance / first)[1:]
        at_pixels = patches * ((at_patches / conv[1:]) @ kernel)
        shape = at_pixels.reshape(rows, columns, 3, high, wide).transpose(2, 0, 3, 1, 4)
        return shape.reshape(3, rows * high, columns * wide)

    def block(self, x, at):
        normed, from_normed = self.norm(x, f"{at}ln_1")
        packed, from_packed = self.linear(normed, self.w[f"{at}attn.in_proj_weight"], self.w[f"{at}attn.in_proj_bias"])
        mixed, from_mixed = self.attention(packed)
        out, from_out = self.linear(mixed, *self.scaled(f"{at}attn.out_proj", f"{at}ls_1.gamma"))
        y = x + out
        normed2, from_normed2 = self.norm(y, f"{at}ln_2")
        a, from_a = self.linear(normed2, *self.scaled(f"{at}mlp.c_fc", ""))
        active = activate(self.vision.activation, a)
        grown, from_grown = self.linear(active, *self.scaled(f"{at}mlp.c_proj", f"{at}ls_2.gamma"))
        z = y + grown

        def back(relevance):
            # An activation hands its relevance through; a sum shares it by its terms.
            middle = y * relevance / z + from_normed2(from_a(from_grown(grown * relevance / z)))
            return x * middle / y + from_normed(from_packed(from_mixed(from_out(out * middle / y))))

        return z, back

    def attention(self, packed):
        width = self.vision.width // self.vision.heads
        query, key, value = (part.copy() for part in np.split(packed, 3, axis=1))
        mixed, steps = np.empty_like(value), []
        for head in range(self.vision.heads):
            own = slice(head * width, (head + 1) * width)
            q, k, v = query[:, own], key[:, own], value[:, own]
            scores = q @ k.T / np.sqrt(width)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            mixed[:, own] = weights @ v
            steps.append((own, q, k, v, scores, weights))

        def back(relevance):
            parts = [np.zeros_like(value) for _ in range(3)]
            for own, q, k, v, scores, weights in steps:
                ratio = relevance[:, own] / mixed[:, own]
                products = np.einsum("ij,jd,id->ijd", weights, v, ratio)  # what A_ij V_jd hands down
                if not self.through_attention:
                    parts[2][:, own] = products.sum(axis=0)
                    continue
                parts[2][:, own] = products.sum(axis=0) / 2
                to_weights = products.sum(axis=2) / 2
                to_scores = scores * (to_weights - weights * to_weights.sum(axis=1, keepdims=True))
                products = np.einsum("id,jd,ij->ijd", q, k, to_scores / scores) / np.sqrt(width)
                parts[0][:, own], parts[1][:, own] = products.sum(axis=1) / 2, products.sum(axis=0) / 2
            return np.concatenate(parts, axis=1)

        return mixed, back

    def scaled(self, name, gamma):
        """Weight and bias, LayerScale in them."""
        scale = self.w.get(gamma, np.ones(len(self.w[f"{name}.bias"])))
        return scale[:, None] * self.w[f"{name}.weight"], scale * self.w[f"{name}.bias"]

    def linear(self, x, weight, bias):
        y = x @ weight.T + bias
        return y, lambda relevance: x * ((relevance / y) @ weight)

    def norm(self, x, name):
        """Mean removal is linear and shares by its terms; 1/sigma is a constant factor."""
        centred = x - x.mean(axis=1, keepdims=True)
        sigma = np.sqrt((centred**2).mean(axis=1, keepdims=True) + self.vision.eps)
        grown = centred / sigma * self.w[f"{name}.weight"]
        y = grown + self.w[f"{name}.bias"]

        def back(relevance):
            ratio = grown * relevance / y / centred
            return x * (ratio - ratio.mean(axis=1, keepdims=True))

        return y, back


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_times_input_is_the_relevance_that_the_rules_hand_down(shape, rules):
    source = tiny_source(tiny_config(**SHAPES[shape]))
    inputs = inputs_of(source)
    gradient = evaluate(graph_of(source, rules), inputs)[f"{rules}_gradient"]
    got = relevance_of(source, gradient, inputs["pixels"])
    slow = Rules(source, rules == "attnlrp")
    for image in range(2):
        for prompt in range(3):
            expected = slow.relevance(inputs["pixels"][image], inputs["text"][prompt])
            _, high, wide = expected.shape
            assert relative(got[image, prompt, :, :high, :wide], expected) <= 1e-9
            assert (got[image, prompt, :, high:] == 0).all()
            assert (got[image, prompt, :, :, wide:] == 0).all()


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_autograd_with_detached_pieces(shape, opset):
    source = tiny_source(tiny_config(**SHAPES[shape]))
    inputs = inputs_of(source)
    for case in LRP.cases(Oracle.of(source), dict.fromkeys(RULES), inputs):
        (rules,) = case.graphs
        got = evaluate(graph_of(source, rules, opset), inputs)
        assert got.keys() == case.expected.keys()
        for name, value in got.items():
            assert relative(value, case.expected[name]) <= 1e-6, name  # the oracle rounds to float32


def without_constants(source):
    """The same tower without biases, positions and class embedding: nothing but the pixels can carry relevance."""
    zero = ("bias", "positional_embedding", "class_embedding")
    state = {name: torch.zeros_like(t) if name.endswith(zero) else t for name, t in source.state.items()}
    return replace(source, state=state)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_cplrp_conserves_the_cosine_where_no_bias_takes_a_part(activation):
    whole = tiny_source(tiny_config(quick_gelu=activation == "quick_gelu"))
    source = without_constants(whole)
    inputs = inputs_of(source)
    for own, conserved in ((source, True), (whole, False)):
        got = evaluate(graph_of(own, "cplrp"), inputs)
        relevance = relevance_of(own, got["cplrp_gradient"], inputs["pixels"]).sum(axis=(2, 3, 4))
        assert (relative(relevance, got["similarity"]) <= 1e-10) == conserved


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("opset", [20, 23])
def test_exported_graphs_agree_for_one_and_several_images_and_texts(tmp_path, opset, precision):
    """Export checks B in (1, 3) and P in (1, 5) and writes nothing that disagrees; here, that it was checked."""
    options = ExportOptions(opset=opset, precision=precision, signals=("lrp",))
    manifest = export_bundle(tiny_source(), tmp_path / "tiny", options)
    allowed = {"fp32": 1e-5, "fp16": 1e-2, "int8": 1e-1}[precision]
    for rules in RULES:
        assert manifest.graphs[rules].outputs.keys() == manifest.parity[rules].keys()
        assert 0 < manifest.parity[rules][f"{rules}_gradient"] <= allowed


@pytest.mark.parametrize("rules", RULES)
def test_the_relevance_follows_image_and_text(rules):
    source = tiny_source()
    graph, one, other = graph_of(source, rules), inputs_of(source, seed=1), inputs_of(source, seed=2)
    first = evaluate(graph, one)[f"{rules}_gradient"]
    assert relative(evaluate(graph, {**one, "pixels": other["pixels"]})[f"{rules}_gradient"], first) > 0.1
    assert relative(evaluate(graph, {**one, "text": other["text"]})[f"{rules}_gradient"], first) > 0.1
