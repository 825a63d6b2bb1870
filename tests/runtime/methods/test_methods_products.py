"""Rollout, relevance over all layers and attention flow through a bundle, against the papers' recursions in float64.

Attention and its derivatives come from open_clip's own modules by autograd, flows from scipy's maximum flow of
integers.
"""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine import Explainer
from eyeshine.concept import ContrastOptions
from eyeshine.errors import OptionError, SignalError
from eyeshine.images import load_image
from eyeshine.methods import AttentionFlow, CheferLayers, Rollout
from eyeshine.methods.attention_flow import by_networkx, by_scipy
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import normalised, relative, trace
from tiny import tiny_config, tiny_model, tiny_source

TEXTS = ["a red car", "the dog", "a tree"]
METHODS = ["rollout", "chefer_layers", "attention_flow"]


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_config()).double()


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def traced(explainer, model, image):
    info = explainer.bundle.manifest.model
    pixels = explainer.preprocess.prepare(load_image(image)).pixels
    return trace(model, normalised(pixels[None], info.mean, info.std).requires_grad_())


def rolled_out(explainer, model, image, start):
    joint = np.eye(17)
    for attention in traced(explainer, model, image)[1]["attention"][start:]:
        step = attention[0].mean(0).detach().numpy() + np.eye(17)
        joint = step / step.sum(1, keepdims=True) @ joint
    return joint[0, 1:]


def relevance(explainer, model, image, target, start=0):
    """R's class row for the score <unit embedding, target>, whole matrices at a time."""
    embedding, kept = traced(explainer, model, image)
    score = F.normalize(embedding, dim=-1)[0] @ torch.from_numpy(target)
    gradients = torch.autograd.grad(score, kept["attention"])
    whole = torch.eye(17, dtype=torch.float64)
    for gradient, attention in list(zip(gradients, kept["attention"], strict=True))[start:]:
        whole = whole + (gradient[0] * attention[0].detach()).relu().mean(0) @ whole
    return whole[0, 1:].numpy()


def vectors(explainer, texts=TEXTS):
    return explainer.encode_texts(texts).astype(np.float64)


@pytest.mark.parametrize("start", [0, 1, 3, -1, -4])
def test_rollout_is_the_product_of_whole_matrices(explainer, model, start):
    found = explainer.explain([photo(0), photo(1)], TEXTS, method=Rollout(start_layer=start))
    for index in range(2):
        expected = rolled_out(explainer, model, photo(index), start)
        for prompt in range(3):
            assert relative(found.maps[index, prompt].reshape(-1), expected) <= 1e-4


@pytest.mark.parametrize("start", [0, 2, -1])
def test_relevance_of_logits_is_the_recursion_over_whole_matrices(explainer, model, start):
    scale = explainer.bundle.manifest.model.logit_scale
    for method, factor in ((CheferLayers(start), scale), (CheferLayers(start, logits=False), 1.0)):
        found = explainer.explain([photo(0), photo(1)], TEXTS, method=method)
        for index in range(2):
            for own, vector in zip(found.maps[index], vectors(explainer), strict=True):
                expected = relevance(explainer, model, photo(index), factor * vector, start)
                assert relative(own.reshape(-1), expected) <= 1e-4


def test_one_layer_of_relevance_is_chefer_times_the_logit_scale(explainer):
    last = explainer.explain(photo(0), TEXTS, method=CheferLayers(-1)).maps
    expected = explainer.explain(photo(0), TEXTS, method="chefer").maps
    assert relative(last, explainer.bundle.manifest.model.logit_scale * expected) <= 1e-4


def test_a_contrast_is_a_target_of_its_own_and_similarities_stay_those_of_the_texts(explainer, model):
    others = ["the sky", "a house"]
    found = explainer.explain(photo(0), TEXTS, method="chefer_layers", against=others)
    scale, mean = explainer.bundle.manifest.model.logit_scale, vectors(explainer, others).mean(0)
    for own, vector in zip(found.maps[0], vectors(explainer), strict=True):
        expected = relevance(explainer, model, photo(0), scale * (vector - mean))
        assert relative(own.reshape(-1), expected) <= 1e-4
    plain = explainer.explain(photo(0), TEXTS)
    assert np.abs(found.similarities - plain.similarities).max() <= 1e-6
    rest = explainer.explain(photo(0), TEXTS, method="chefer_layers", against="rest").maps[0, 1]
    first, second, third = vectors(explainer)
    expected = relevance(explainer, model, photo(0), scale * (second - (first + third) / 2))
    assert relative(rest.reshape(-1), expected) <= 1e-4


def test_a_contrast_of_each_images_own_is_that_of_the_image_alone(explainer):
    options = ContrastOptions(candidates=["a dog", "a tree", "the sky", "a house"], top=1)
    photos = [photo(seed) for seed in range(4)]
    together = explainer.explain(photos, TEXTS, method="chefer_layers", against=options)
    chosen = {choice.chosen for of_image in together.details["contrast"] for choice in of_image}
    assert len(chosen) > 1  # else one target would do for all
    for index, image in enumerate(photos):
        alone = explainer.explain(image, TEXTS, method="chefer_layers", against=options)
        assert relative(together.maps[index], alone.maps[0]) <= 1e-4
        assert np.abs(together.similarities[index] - alone.similarities[0]).max() <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_the_map_follows_the_image(explainer, method):
    maps = explainer.explain([photo(0), photo(1)], TEXTS[:1], method=method).maps
    assert relative(maps[1], maps[0]) > 0.02
    assert relative(explainer.explain(photo(1), TEXTS[:1], method=method).maps[0], maps[1]) <= 1e-4


@pytest.mark.parametrize("method", [Rollout(4), Rollout(-5), CheferLayers(4)])
def test_a_block_that_the_tower_lacks_is_refused(explainer, method):
    with pytest.raises(OptionError, match=r"no such block.*allowed: -4..3"):
        explainer.explain(photo(0), TEXTS, method=method)


def test_settings_check_themselves():
    for make in (
        lambda: Rollout(1.5), lambda: Rollout(64), lambda: CheferLayers(True), lambda: CheferLayers(logits=1),
        lambda: AttentionFlow(0), lambda: AttentionFlow(1e6),
    ):  # fmt: skip
        with pytest.raises(OptionError):
            make()


# -- attention flow --------------------------------------------------------------------------------------------


def random_attention(seed, depth, tokens):
    random = np.random.default_rng(seed)
    attention = random.dirichlet(np.full(tokens, 0.3), (depth, tokens))
    return (attention + np.eye(tokens)) / 2


@pytest.mark.parametrize(("depth", "tokens"), [(1, 4), (2, 3), (3, 6), (4, 17)])
@pytest.mark.parametrize("seed", range(3))
def test_flows_of_integers_are_those_of_another_algorithm(seed, depth, tokens):
    capacities = random_attention(seed, depth, tokens)
    got, expected = list(by_scipy(capacities)), list(by_networkx(capacities))
    assert np.abs(np.subtract(got, expected)).max() <= depth * tokens**2 / 2**30  # every capacity was rounded


@pytest.mark.parametrize("solver", [by_scipy, by_networkx])
def test_a_flow_is_the_smallest_cut(solver):
    """All subsets of the tokens in between, as many as there are, on two blocks."""
    capacities = random_attention(5, 2, 5)
    low, high = capacities
    for patch, flow in enumerate(solver(capacities), 1):
        with_source = [[bool(bits >> token & 1) for token in range(5)] for bits in range(2**5)]
        cuts = [sum(low[t, patch] if side else high[0, t] for t, side in enumerate(sides)) for sides in with_source]
        assert flow == pytest.approx(min(cuts), rel=1e-12 if solver is by_networkx else 1e-7)


def test_flow_through_a_bundle_is_that_of_the_models_attention(explainer, model):
    found = explainer.explain([photo(0), photo(1)], TEXTS, method="attention_flow")
    slow = explainer.explain([photo(0), photo(1)], TEXTS, method=AttentionFlow(solver="networkx"))
    assert np.abs(found.maps - slow.maps).max() <= 4 * 17**2 / 2**30 + 1e-7
    for index in range(2):
        attention = traced(explainer, model, photo(index))[1]["attention"]
        capacities = np.stack([(a[0].mean(0).detach().numpy() + np.eye(17)) / 2 for a in attention])
        expected = list(by_networkx(capacities))
        for prompt in range(3):
            assert np.abs(found.maps[index, prompt].reshape(-1) - expected).max() <= 1e-5
    assert [note["edges"] for note in found.details["passes"]["images"]] == [(3 * 17 + 1) * 17] * 2


def test_a_network_that_is_too_large_is_refused_before_any_flow(explainer):
    with pytest.raises(OptionError, match=r"too many edges; got 884 \(4 blocks, 17 tokens\).*most_edges"):
        explainer.explain(photo(0), TEXTS, method=AttentionFlow(most_edges=883))


@pytest.mark.parametrize("solver", ["networkx", "scipy"])
def test_without_its_library_the_error_names_the_extra(explainer, monkeypatch, solver):
    for name in [solver, *(name for name in sys.modules if name.startswith(f"{solver}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match=rf"{solver}.*eyeshine\[concepts\]"):
        explainer.explain(photo(0), TEXTS, method=AttentionFlow(solver=solver))


def test_solvers_that_are_not_there():
    with pytest.raises(OptionError, match="unknown solver; got 'gurobi'; allowed: scipy, networkx"):
        AttentionFlow(solver="gurobi")


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_without_the_graphs_names_the_export_command(tmp_path_factory, method):
    folder = tmp_path_factory.mktemp("plain") / "plain"
    export_bundle(tiny_source(), folder, ExportOptions())
    with pytest.raises(SignalError, match="eyeshine export"):
        Explainer.load(folder, threads=1).explain(photo(0), TEXTS, method=method)
