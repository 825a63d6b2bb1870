"""Head decomposition against a whole decomposition of open_clip's own model in float64, term by term."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from eyeshine import Explainer
from eyeshine.bundle import HEADS
from eyeshine.errors import OptionError
from eyeshine.methods import BlockSignals, HeadDecomposition
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import normalised, relative, trace
from tiny import tiny_config, tiny_model, tiny_source

TEXTS = ["a red car", "the dog", "a tree"]
RAW = tiny_config(vision={"ls_init_value": 0.1})


@pytest.fixture(scope="module")
def explainer(tmp_path_factory):
    """All four blocks explained, LayerScale and all."""
    folder = tmp_path_factory.mktemp("bundles") / "heads"
    export_bundle(tiny_source(RAW), folder, ExportOptions(layers=4))
    return Explainer.load(folder, threads=1)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Terms:
    """Everything that is added up to the unit embedding of an image, [..., E].

    Attributes:
        heads: [L, H, T, E].
        rest: embeddings, MLPs, biases, LN_post's bias, each [E].
        embedding: [E], unit, as open_clip computes it.
        factor: 1 / (sigma |e|).
    """

    heads: np.ndarray
    rest: list[np.ndarray]
    embedding: np.ndarray
    factor: float


@torch.no_grad()
def decomposed(explainer: Explainer, image: np.ndarray) -> Terms:
    info = explainer.bundle.manifest.model
    model = tiny_model(RAW).double()
    visual = model.visual
    embedding, kept = trace(model, normalised(explainer.preprocess.prepare(image).pixels[None], info.mean, info.std))
    blocks = list(visual.transformer.resblocks)
    length = float(embedding.norm())
    writes, rest = [], [kept["input"][0][0, 0]]
    for index, block in enumerate(blocks):
        heads = block.attn.num_heads
        weight, values = block.attn.out_proj.weight, kept["value"][index][0]
        depth = weight.shape[0] // heads
        own = []
        for h in range(heads):
            channels = slice(h * depth, (h + 1) * depth)
            mixed = kept["attention"][index][0, h, 0, :, None] * values[:, channels]
            own.append(block.ls_1(mixed @ weight[:, channels].T))
        writes.append(torch.stack(own))
        attended = block.attn.out_proj(kept["mixed"][index][0, 0])
        y = kept["input"][index][0, 0] + block.ls_1(attended)
        rest += [block.ls_1(block.attn.out_proj.bias), block.ls_2(block.mlp(block.ln_2(y)))]
    residual = torch.stack(writes).sum((0, 1, 2)) + torch.stack(rest).sum(0)
    sigma = float((residual.var(correction=0) + visual.ln_post.eps).sqrt())

    def into_the_joint_space(term: torch.Tensor) -> np.ndarray:
        centred = term - term.mean(-1, keepdim=True)
        return (centred / sigma * visual.ln_post.weight @ visual.proj / length).numpy()

    bias = (visual.ln_post.bias @ visual.proj / length).numpy()
    return Terms(
        into_the_joint_space(torch.stack(writes)), [*map(into_the_joint_space, rest), bias],
        (embedding[0] / length).numpy(), 1 / (sigma * length),
    )  # fmt: skip


def test_the_terms_of_all_blocks_sum_to_the_embedding(explainer):
    terms = decomposed(explainer, photo(1))
    assert terms.heads.shape == (4, 2, 17, 24)
    np.testing.assert_allclose(terms.heads.sum((0, 1, 2)) + np.sum(terms.rest, 0), terms.embedding, atol=1e-12)
    np.testing.assert_allclose(explainer.encode_images(photo(1))[0], terms.embedding, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("over_prompts", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_maps_are_the_patches_terms_along_the_text(explainer, layers, over_prompts, signed):
    terms, image = decomposed(explainer, photo(1)), photo(1)
    method = HeadDecomposition(layers=layers, over_prompts=over_prompts, signed=signed)
    got = explainer.explain(image, TEXTS, method=method)
    text = explainer.encode_texts(TEXTS).astype(float)
    expected = np.einsum("lhte,pe->pt", terms.heads[-layers:], text)[:, 1:]
    if over_prompts:
        expected = expected - expected.mean(0)
    if not signed:
        expected = np.maximum(expected, 0)
    assert relative(got.maps[0].reshape(3, 16) * terms.factor, expected) <= 1e-4


def test_each_heads_score_is_its_share_of_the_cosine(explainer):
    terms = decomposed(explainer, photo(1))
    got = explainer.explain(photo(1), TEXTS, method="head_decomposition")
    scores = got.details["contributions"].scores[0]
    text = explainer.encode_texts(TEXTS).astype(float)
    expected = np.einsum("lhte,pe->plh", terms.heads, text)
    assert relative(scores * terms.factor, expected) <= 1e-4
    rest = np.sum(terms.rest, 0) @ text.T
    np.testing.assert_allclose(scores.sum((1, 2)) * terms.factor + rest, got.similarities[0], atol=1e-5)
    rows = got.record()["contributions"][1]
    assert len(rows) == 8
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    for row in rows:
        assert row["score"] == pytest.approx(scores[1, row["block"], row["head"]])


def test_a_text_rather_than_others_is_a_difference_of_signed_maps(explainer):
    signed = HeadDecomposition(signed=True)
    each = explainer.explain(photo(), TEXTS[:2], method=signed).maps[0]
    got = explainer.explain(photo(), TEXTS[:1], against=TEXTS[1:2], method=signed).maps[0, 0]
    assert relative(got, each[0] - each[1]) <= 1e-4


def test_the_map_changes_with_the_image_and_its_text(explainer):
    first, second = (explainer.explain(photo(seed), TEXTS, method="head_decomposition").maps for seed in (1, 2))
    assert relative(first, second) > 0.1
    assert relative(first[:, 0], first[:, 1]) > 0.1


@pytest.mark.parametrize("per_image", [False, True])
def test_torch_gives_what_numpy_gives(explainer, per_image):
    """The arithmetic beside the kernel; the kernel itself is tested as ``relevance``."""
    from eyeshine.methods.head_decomposition import _directions, _scores

    random = np.random.default_rng(0)
    values, attention = random.standard_normal((2, 3, 5, 8)), random.random((2, 3, 4, 5))
    projection = random.standard_normal((3, 8, 6))
    target = random.standard_normal((2, 2, 6) if per_image else (2, 6))
    directions = _directions(projection, target, 2)
    for b, p, k in np.ndindex(2, 2, 3):
        np.testing.assert_allclose(directions[b, p, k], projection[k] @ (target[b] if per_image else target)[p])
    tensors = [torch.from_numpy(array) for array in (projection, target, values, attention)]
    on_torch = _directions(tensors[0], tensors[1], 2)
    assert on_torch.is_contiguous()
    np.testing.assert_allclose(on_torch, directions)
    np.testing.assert_allclose(_scores(on_torch, *tensors[2:]), _scores(directions, values, attention))


def test_without_attention_to_patches_the_map_is_zero():
    attention = np.zeros((1, 1, 2, 5), np.float32)
    attention[..., 0] = 1
    random = np.random.default_rng(0)
    block = BlockSignals(
        values=random.standard_normal((1, 1, 5, 4)).astype(np.float32),
        class_attention=attention,
        target=random.standard_normal((2, 3)).astype(np.float32),
        head_projection=random.standard_normal((1, 4, 3)).astype(np.float32),
    )
    assert (HeadDecomposition(layers=1).maps(block, 2) == 0).all()


def test_what_is_refused(explainer):
    for settings, message in (({"layers": 0}, "layers"), ({"signed": 1}, "signed"), ({"over_prompts": "no"}, "over_p")):
        with pytest.raises(OptionError, match=message):
            HeadDecomposition(**settings)
    with pytest.raises(OptionError, match="over_prompts subtracts the mean over the texts; got one text"):
        explainer.explain(photo(), TEXTS[:1], method=HeadDecomposition(over_prompts=True))
    assert HEADS in explainer.bundle.manifest.files
