"""The groups "single_head" and "queries" against open_clip's own modules, heads merged by hand, and autograd."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine import Explainer
from eyeshine.bundle import Bundle
from eyeshine.errors import SignalError
from eyeshine.methods import GradEclip, HeadDecomposition, Mmel
from eyeshine.verify import verify
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.single_head import single_head_graph
from eyeshine_export.graph.towers import explain_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.groups import ALL, choose_groups
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import cosines, evaluate, normalised, relative, run_onnxruntime, signals, spatial_weights, trace
from tiny import arrays, tiny_config, tiny_model, tiny_source

SHAPES = {
    "plain": {},
    "quickgelu": {"quick_gelu": True},
    "LayerScale": {"vision": {"ls_init_value": 0.1}, "quick_gelu": True},
    "patch does not divide": {"vision": {"image_size": [35, 29]}},
    "one head": {"vision": {"width": 16}},
    "five heads of six": {"vision": {"width": 30, "head_width": 6}},
}
TEXTS = ["a red car", "the dog"]


def weights_of(source, dtype=np.float64):
    normalisation, config = source.normalisation, source.config
    return vision_weights(arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std)


def merged_model(raw, layers):
    """open_clip's model with one head in each of its last blocks."""
    model = tiny_model(raw).double()
    for block in list(model.visual.transformer.resblocks)[-layers:]:
        block.attn.num_heads = 1
    return model


def after_out(model, pixels, layers):
    """Lambda of queries and keys after the output projection (and LayerScale), patch by patch."""
    found = []
    with torch.no_grad():
        kept = trace(model, pixels)[1]
        for index in range(-layers, 0):
            block = model.visual.transformer.resblocks[index]
            query, keys = (block.ls_1(block.attn.out_proj(kept[name][index])).numpy() for name in ("query", "key"))
            found.append(spatial_weights(query[:, 0], keys))
    return np.stack(found, 1)


def expected_of(raw, source, inputs, layers):
    pixels = normalised(inputs["pixels"], source.normalisation.mean, source.normalisation.std)
    text = torch.from_numpy(inputs["text"]).double()
    merged = merged_model(raw, layers)
    found = signals(merged, pixels, text, layers)
    with torch.no_grad():
        embedding = trace(tiny_model(raw).double(), pixels)[0]
    names = ("similarity", "values", "spatial_weights", "gradient")
    return {
        "embedding": F.normalize(embedding, dim=-1).numpy(),
        "similarity": cosines(embedding, text).numpy(),
        **{f"single_head_{name}": found[name] for name in names},
        "single_head_spatial_weights_out": after_out(merged, pixels, layers),
    }


def inputs_of(source, dtype):
    random = np.random.default_rng(0)
    pixels = random.random((2, 3, *source.config.vision.image_size))
    return {
        "pixels": pixels.astype(dtype),
        "text": (3 * random.standard_normal((3, source.config.embed_dim))).astype(dtype),
    }


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    errors = {name: relative(got[name], expected[name]) for name in got}
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_autograd_on_open_clip_with_merged_heads(shape, layers):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source, np.float64)
    got = evaluate(single_head_graph(source.config, weights_of(source), layers, Form(dtype=np.float64)), inputs)
    assert_close(got, expected_of(raw, source, inputs, layers), 1e-11)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_float32_on_onnxruntime(layers, opset):
    raw = tiny_config()
    source = tiny_source(raw)
    inputs = inputs_of(source, np.float32)
    got = run_onnxruntime(single_head_graph(source.config, weights_of(source), layers, Form(opset)), inputs)
    assert_close(got, expected_of(raw, source, inputs, layers), 1e-4)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("layers", [1, 3])
def test_queries_are_those_of_the_patches_and_the_rest_is_the_deep_graphs(layers, opset):
    raw = tiny_config(vision={"ls_init_value": 0.1})
    source = tiny_source(raw)
    inputs = inputs_of(source, np.float64)
    form = Form(opset, dtype=np.float64)
    got = evaluate(explain_graph(source.config, weights_of(source), layers, form, queries=True), inputs)
    pixels = normalised(inputs["pixels"], source.normalisation.mean, source.normalisation.std)
    model, text = tiny_model(raw).double(), torch.from_numpy(inputs["text"])
    queries = torch.stack(trace(model, pixels)[1]["query"][-layers:], 1)[:, :, 1:]
    assert_close(got, {**signals(model, pixels, text, layers), "queries": queries.detach().numpy()}, 1e-11)


# Through a bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "merged"
    export_bundle(tiny_source(), folder, ExportOptions(layers=2, signals=("single_head", "queries")))
    return folder


def photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_a_bundle_checks_itself_and_ordinary_methods_never_run_the_modified_model(bundle):
    opened = Bundle.open(bundle)
    assert verify(opened).passed
    assert opened.cheapest(frozenset({"values", "gradient"}), 2) == "deep"
    assert opened.cheapest(frozenset({"queries"}), 1) == "queries"
    assert opened.cheapest(frozenset({"single_head_values"}), 1) == "single_head"
    assert opened.cheapest(frozenset({"single_head_values"}), 2) == "single_head_deep"
    assert {group.name for group in choose_groups((ALL,))} >= {"single_head", "queries"}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("mode", ["paper-code", "notebook"])
@pytest.mark.parametrize("spatial", [True, False])
def test_released_modes_are_autograds_on_open_clip_with_merged_heads(bundle, mode, layers, spatial):
    """Map = sum over blocks of ReLU(lambda_i sum_d w_d v_id), entry by entry; similarities are the deployed model's."""
    explainer = Explainer.load(bundle, threads=1)
    got = explainer.explain(photo(1), TEXTS, method=GradEclip(mode=mode, layers=layers, spatial=spatial))
    inputs = {
        "pixels": explainer.preprocess.prepare(photo(1)).pixels[None],
        "text": explainer.encode_texts(TEXTS),
    }
    found = expected_of(tiny_config(), tiny_source(), inputs, layers)
    suffix = "_out" if mode == "paper-code" else ""
    expected = np.zeros((2, 16))
    for p, k, i in np.ndindex(2, layers, 16):
        weight = found[f"single_head_spatial_weights{suffix}"][0, k, i] if spatial else 1.0
        gradient, value = found["single_head_gradient"][0, p, k], found["single_head_values"][0, k, 1 + i]
        expected[p, i] += max(sum(g * v for g, v in zip(gradient, value, strict=True)) * weight, 0)
    assert relative(got.maps[0].reshape(2, 16), expected) <= 1e-4
    assert relative(got.similarities, found["similarity"]) <= 1e-4
    assert relative(found["single_head_similarity"], found["similarity"]) > 1e-2


@pytest.mark.parametrize("method", [GradEclip(mode="paper-code"), GradEclip(mode="notebook", layers=2)])
def test_the_map_changes_with_the_image_and_is_not_the_faithful_one(bundle, method):
    explainer = Explainer.load(bundle, threads=1)
    first, second = (explainer.explain(photo(seed), TEXTS, method=method).maps for seed in (1, 2))
    faithful = explainer.explain(photo(1), TEXTS, method=GradEclip(layers=method.layers)).maps
    assert relative(first, second) > 0.1
    assert relative(first, faithful) > 0.05


def test_a_difference_of_texts_is_that_of_their_gradients(bundle):
    explainer = Explainer.load(bundle, threads=1)
    signed = GradEclip(mode="notebook", spatial=False)
    got = explainer.explain(photo(), TEXTS[:1], method=signed, against=TEXTS[1:]).maps
    inputs = {"pixels": explainer.preprocess.prepare(photo()).pixels[None], "text": explainer.encode_texts(TEXTS)}
    found = expected_of(tiny_config(), tiny_source(), inputs, 1)
    gradient = found["single_head_gradient"][0, 0, 0] - found["single_head_gradient"][0, 1, 0]
    expected = np.maximum(found["single_head_values"][0, 0, 1:] @ gradient, 0)
    assert relative(got.reshape(16), expected) <= 1e-4


def test_blocks_that_no_graph_merges_are_refused_with_the_command_that_would(bundle):
    explainer = Explainer.load(bundle, threads=1)
    with pytest.raises(SignalError, match=r"--layers 3 --signals single_head"):
        explainer.explain(photo(), TEXTS, method=GradEclip(mode="notebook", layers=3))


def test_mmel_relates_patches_by_their_queries_where_it_is_told_to(bundle):
    explainer = Explainer.load(bundle, threads=1)
    keys, queries = (
        explainer.explain(photo(1), TEXTS, method=Mmel(layers=2, features=name)) for name in ("keys", "queries")
    )
    assert (keys.engine["graph"], queries.engine["graph"]) == ("deep", "queries")
    assert relative(queries.maps, keys.maps) > 1e-3
    other = explainer.explain(photo(2), TEXTS, method=Mmel(layers=2, features="queries")).maps
    assert relative(queries.maps, other) > 0.1


def test_queries_alone_are_enough_to_score_the_heads_of_their_blocks(bundle, tmp_path):
    """Without --layers there is no deep graph, and four blocks of attention all the same."""
    manifest = export_bundle(tiny_source(), tmp_path / "alone", ExportOptions(signals=("queries",)))
    assert "deep" not in manifest.graphs
    alone, deep = (Explainer.load(folder, threads=1) for folder in (tmp_path / "alone", bundle))
    found, wanted = (one.explain(photo(1), TEXTS, method=HeadDecomposition(layers=2)) for one in (alone, deep))
    assert (found.engine["graph"], wanted.engine["graph"]) == ("queries", "deep")
    assert relative(found.maps, wanted.maps) <= 1e-4
    assert alone.explain(photo(1), TEXTS, method=HeadDecomposition(layers=4)).maps.any()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_both_groups_are_exported_in_every_precision(tmp_path, precision):
    options = ExportOptions(layers=2, signals=("single_head", "queries"), precision=precision)
    manifest = export_bundle(tiny_source(), tmp_path / "small", options)
    assert {"single_head", "single_head_deep", "queries"} <= manifest.parity.keys()
    assert verify(Bundle.open(tmp_path / "small")).passed
