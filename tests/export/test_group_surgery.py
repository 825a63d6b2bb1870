"""The group "surgery": features of tokens whose blocks attend otherwise, against open_clip's modules and slow loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eyeshine.manifest import Manifest
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.surgery import patch_features_graph, surgery_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.groups.surgery import SURGERY
from eyeshine_export.oracle import Oracle
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import evaluate, normalised, relative, trace
from tiny import arrays, tiny_config, tiny_model, tiny_source

SHAPES = {
    "plain": {},
    "LayerScale": {"vision": {"ls_init_value": 0.1}, "quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True, "image_size": [16, 40]}},
    "patch does not divide": {"vision": {"image_size": [35, 29]}},
    "deeper than the surgery": {"vision": {"layers": 8, "image_size": 16}},
    "tanh": {"vision": {"act_kwargs": {"approximate": "tanh"}, "image_size": 16}},
    "one block": {"vision": {"layers": 1}},
    "five heads of six": {"vision": {"width": 30, "head_width": 6}},
}


def graphs_of(source, opset=23, dtype=np.float64):
    config, normalisation = source.config, source.normalisation
    weights = vision_weights(
        arrays(source, dtype), config.vision, config.embed_dim, normalisation.mean, normalisation.std
    )
    depth, form = min(6, config.vision.layers), Form(opset, dtype=dtype)
    return surgery_graph(config, weights, depth, form), patch_features_graph(config, weights, form)


def inputs_of(source, images=2, prompts=3, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.random((images, 3, *source.config.vision.image_size))
    return {"pixels": pixels, "text": 3 * random.standard_normal((prompts, source.config.embed_dim))}


def attend(queries, keys, values, heads, window=None):
    """Row by row, head by head; all [T, D]."""
    width = queries.shape[1] // heads
    mixed = np.empty_like(values)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for i in range(len(queries)):
            scores = [float(queries[i, own] @ key[own]) / math.sqrt(width) for key in keys]
            if window is not None:
                scores = [score + window[i][j] for j, score in enumerate(scores)]
            weights = np.exp(np.array(scores) - max(scores))
            mixed[i, own] = sum(w * v for w, v in zip(weights / weights.sum(), values[:, own], strict=True))
    return mixed


def window_of(grid, std):
    """NACLIP's addition to the scores, [T][T], from the places of the patches."""
    places = [None, *((y, x) for y in range(grid[0]) for x in range(grid[1]))]

    def between(a, b):
        return 0.0 if a is None or b is None else math.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * std**2))

    return [[between(a, b) for b in places] for a in places]


class Slow:
    """open_clip's modules on one image: everything that is expected of it."""

    def __init__(self, raw, source, pixels):
        self.visual, self.vision = tiny_model(raw).double().visual, source.config.vision
        prepared = normalised(pixels, source.normalisation.mean, source.normalisation.std)
        with torch.no_grad():
            self.embedding, self.kept = trace(tiny_model(raw).double(), prepared)

    def value(self, name, block):
        return self.kept[name][block][0].numpy()

    def attended(self, name, block, window=None):
        part = self.value(name, block)
        return attend(part, part, self.value("value", block), self.vision.heads, window)

    def out(self, block, mixed):
        module = self.visual.transformer.resblocks[block]
        with torch.no_grad():
            return module.ls_1(module.attn.out_proj(torch.from_numpy(mixed))).numpy()

    def mlp(self, block, y):
        module = self.visual.transformer.resblocks[block]
        with torch.no_grad():
            return y + module.ls_2(module.mlp(module.ln_2(torch.from_numpy(y)))).numpy()

    def features(self, x):
        with torch.no_grad():
            return F.normalize(self.visual.ln_post(torch.from_numpy(x)) @ self.visual.proj, dim=-1).numpy()

    def surgery(self):
        depth = min(6, self.vision.layers)
        path = self.value("input", -depth).copy()
        for block in range(-depth, 0):
            path += self.out(block, self.attended("value", block))
        return np.concatenate([F.normalize(self.embedding, dim=-1).numpy(), self.features(path)[1:]])

    def last_block(self):
        x, value = self.value("input", -1), self.value("value", -1)
        both = self.attended("query", -1) + self.attended("key", -1)
        rows = {
            "maskclip_bare": self.out(-1, value),
            "maskclip": self.mlp(-1, x + self.out(-1, value)),
            "sclip": self.mlp(-1, x + self.out(-1, both)),
            "clearclip": self.out(-1, self.attended("query", -1)),
            "naclip": self.out(-1, self.attended("key", -1, window_of(self.vision.grid, 5))),
        }
        return {f"{name}_features": self.features(y)[1:] for name, y in rows.items()}


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_slow_loops_over_open_clips_modules(shape, opset):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source)
    slow = [Slow(raw, source, inputs["pixels"][index : index + 1]) for index in range(2)]
    surgery, patches = (evaluate(graph, inputs) for graph in graphs_of(source, opset))
    assert relative(surgery["surgery_features"], np.stack([one.surgery() for one in slow])) <= 1e-11
    for name in ("maskclip", "maskclip_bare", "sclip", "clearclip", "naclip"):
        expected = np.stack([one.last_block()[f"{name}_features"] for one in slow])
        assert relative(patches[f"{name}_features"], expected) <= 1e-11, name
    embedding = torch.cat([one.embedding for one in slow])
    similarity = F.cosine_similarity(embedding[:, None], torch.from_numpy(inputs["text"])[None], dim=-1).numpy()
    for outputs in (surgery, patches):  # of the deployed model
        assert relative(outputs["embedding"], F.normalize(embedding, dim=-1).numpy()) <= 1e-11
        assert relative(outputs["similarity"], similarity) <= 1e-11


@pytest.mark.parametrize("shape", SHAPES)
def test_the_groups_oracle_equals_the_slow_loops(shape):
    raw = tiny_config(**SHAPES[shape])
    source = tiny_source(raw)
    inputs = inputs_of(source, images=1)
    (case,) = SURGERY.cases(Oracle.of(source), {}, inputs)
    slow = Slow(raw, source, inputs["pixels"])
    for name, expected in {"surgery_features": slow.surgery(), **slow.last_block()}.items():
        assert relative(case.expected[name][0], expected) <= 1e-6  # the oracle rounds to float32


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("opset", [20, 23])
def test_exported_graphs_agree_for_one_and_several_images_and_texts(tmp_path, opset, precision):
    """Export checks B in (1, 3) and P in (1, 5) and writes nothing that disagrees; here, that it was checked."""
    options = ExportOptions(opset=opset, precision=precision, signals=("surgery",))
    manifest = export_bundle(tiny_source(), tmp_path / "tiny", options)
    assert manifest == Manifest.read(tmp_path / "tiny")
    allowed = {"fp32": 1e-5, "fp16": 1e-2, "int8": 1e-1}[precision]
    for graph in ("surgery", "patch_features"):
        assert manifest.graphs[graph].outputs.keys() == manifest.parity[graph].keys()
        assert 0 < max(manifest.parity[graph].values()) <= allowed


def test_features_follow_the_image_and_not_the_text():
    source = tiny_source()
    one, other = inputs_of(source, seed=1), inputs_of(source, seed=2)
    for graph in graphs_of(source):
        first, second = evaluate(graph, one), evaluate(graph, other)
        new_text = evaluate(graph, {**one, "text": other["text"]})
        for name in first.keys() - {"similarity", "embedding"}:
            assert relative(second[name], first[name]) > 0.1, name
            assert np.array_equal(new_text[name], first[name])
