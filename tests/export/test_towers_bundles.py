"""SigLIP, CoCa and CLIPA from a checkpoint to maps: layouts, bundles, and what the runtime makes of them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eyeshine import Explainer
from eyeshine.bundle import Bundle
from eyeshine.errors import ExportError, SignalError, UnsupportedError
from eyeshine.methods.configure import configure
from eyeshine_export.checkpoint import read_checkpoint
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.groups import GROUPS
from eyeshine_export.heads import head_projection
from eyeshine_export.open_clip_config import parse_config, read_config
from eyeshine_export.source import resolve
from eyeshine_export.write import ExportOptions, export_bundle
from foreign import saved, sentencepiece
from layouts import siglip_layout
from oracle import normalised, relative
from tiny import arrays, tiny_model, word_tokens, write_config
from towers import TOWERS, tower_source

KINDS = {"siglip": "latent", "coca": "latent", "clipa": "average"}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """A bundle of each kind."""
    folder = tmp_path_factory.mktemp("towers") / request.param
    export_bundle(tower_source(TOWERS[request.param]), folder)
    return request.param, folder


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_the_manifest_says_what_is_explained(exported):
    name, folder = exported
    manifest = Bundle.open(folder).manifest
    config = tower_source(TOWERS[name]).config
    assert manifest.model.pool == KINDS[name] == config.vision.pool
    last = manifest.graphs["image"].outputs["gradient"]
    assert last.blocks == (config.vision.depth - 1,) == (manifest.model.layers - 1,)
    assert manifest.graphs["image"].outputs["class_attention"].dims[2:] == (manifest.model.heads, 17)
    assert last.dims[-1] == manifest.model.width == (config.vision.pooler or config.vision).width
    assert (manifest.model.logit_bias is not None) == (name == "siglip")
    assert manifest.graphs["text"].inputs["tokens"].dims == ("P", 12)


@pytest.mark.parametrize(
    "method", ["grad_eclip", "chefer", "attention", "attention_grad_cam", "concept_attribution", "occlusion"]
)
def test_maps_follow_the_image_and_the_text(exported, method):
    """What the last attention yields is enough for these; the text may have other lengths than its neighbours."""
    _, folder = exported
    explainer, settings = Explainer.load(folder), configure(method, {"top": 1} if "concept" in method else {})
    texts = ["red car", "a photo of the big green tree left", "dog", "blue sky right", "small house"]
    # Rather than the other texts: signed sums over them are zero, so that a ReLU leaves evidence for some.
    against = "rest" if method == "attention_grad_cam" else None
    found = explainer.explain([photo(0), photo(1)], texts, method=settings, against=against)
    assert found.maps.shape == (2, 5, 4, 4)
    assert np.isfinite(found.maps).all()
    assert relative(found.maps[1], found.maps[0]) > 0.05
    assert (relative(found.maps[:, 1:], found.maps[:, :-1]) > 0.05) == (method != "attention")
    alone = explainer.explain(photo(0), texts, method=settings, against=against)
    assert relative(alone.maps[0], found.maps[0]) <= 1e-4


def test_similarities_are_open_clips(exported):
    name, folder = exported
    model, source = tiny_model(TOWERS[name]).double(), tower_source(TOWERS[name])
    texts, images = ["red car", "a photo of the big green tree left"], [photo(0), photo(1)]
    explainer = Explainer.load(folder)
    pixels = np.stack([explainer.preprocess.prepare(image).pixels for image in images])
    ids = torch.from_numpy(explainer.texts.tokenizer.encode(texts))
    with torch.no_grad():
        given = normalised(pixels, source.normalisation.mean, source.normalisation.std)
        image = torch.nn.functional.normalize(model.encode_image(given), dim=-1)
        text = torch.nn.functional.normalize(model.encode_text(ids), dim=-1)
    assert relative(explainer.explain(images, texts).similarities, (image @ text.T).numpy()) <= 1e-4
    assert relative(explainer.encode_images(images), image.numpy()) <= 1e-4


def test_groups_for_other_towers_are_refused_by_name_and_left_out_of_all(exported, tmp_path):
    name, _ = exported
    source = tower_source(TOWERS[name])
    with pytest.raises(UnsupportedError, match=r"group hidden is not built for such towers.*allowed: plain"):
        export_bundle(source, tmp_path / "out", ExportOptions(signals=("hidden",)))
    fitting = {group for group, built in GROUPS.items() if built.fits(source.config)}
    assert fitting == {"plain", "sizes"} | ({"deep"} if name == "clipa" else set())
    if name != "clipa":
        with pytest.raises(UnsupportedError, match="group deep is not built"):
            export_bundle(source, tmp_path / "out", ExportOptions(layers=2))
    manifest = export_bundle(source, tmp_path / "all", ExportOptions(signals=("all",)))
    assert set(manifest.groups) == fitting
    with pytest.raises(SignalError):
        Explainer.load(tmp_path / "all").explain(photo(0), ["red car"], method="legrad")


def test_the_mean_row_of_several_blocks(tmp_path):
    source = tower_source(TOWERS["clipa"])
    manifest = export_bundle(source, tmp_path / "deep", ExportOptions(layers=3))
    assert manifest.graphs["deep"].outputs["gradient"].blocks == (1, 2, 3)
    method = configure("concept_attribution", {"strategy": "layers", "blocks": 3})
    found = Explainer.load(tmp_path / "deep").explain([photo(0), photo(1)], ["red car"], method=method)
    assert relative(found.maps[1], found.maps[0]) > 0.05


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions(exported, precision, tmp_path):
    name, _ = exported
    manifest = export_bundle(tower_source(TOWERS[name]), tmp_path / precision, ExportOptions(precision=precision))
    assert manifest.precision == precision
    assert max(manifest.parity["image"].values()) > 1e-5  # rounded, and within the tolerance that export checks


@pytest.mark.parametrize("name", KINDS)
def test_head_projections_are_what_heads_add_to_the_embedding(name):
    """O times it is the direct path: what of the embedding goes through nothing but matrices, up to 1/sigma."""
    source = tower_source(TOWERS[name])
    config, normalisation = source.config, source.normalisation
    state = arrays(source)
    weights = vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    block = (weights.pooler or weights).block if weights.pooler else weights.blocks[-1]
    row = np.random.default_rng(0).standard_normal(block.out[0].shape[1])
    added = block.out[0] @ row
    if name != "siglip":
        added = (added - added.mean()) * weights.final_norm[0] @ weights.projection
    assert relative(row @ head_projection(weights, 1)[0], added) <= 1e-5


@pytest.fixture
def siglip_folder(tmp_path):
    """A folder as the hub has it: config.json and weights of a SiglipModel, its tokenizer."""
    state = {key: value.detach() for key, value in tiny_model(TOWERS["siglip"]).state_dict().items()}
    save_file(siglip_layout(state), tmp_path / "model.safetensors")
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12}
    text["vocab_size"] = len(state["text.token_embedding.weight"])
    config = {"model_type": "siglip", "vision_config": vision, "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    return tmp_path


def test_huggingface_and_timm_layouts_hold_the_same_weights(siglip_folder):
    """Their keys onto ours; transformers' own defaults (tanh, eps) come from its configuration."""
    found = read_checkpoint(siglip_folder / "model.safetensors")
    expected = tower_source(TOWERS["siglip"]).state
    assert (found.layout, found.activation) == ("huggingface", "gelu_tanh")
    assert found.state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found.state[name].reshape(value.shape), value), name


def test_a_siglip_folder_of_the_hub_is_exported(siglip_folder, tmp_path):
    name, raw = read_config(siglip_folder / "config.json")
    config = parse_config(name, raw)
    assert (config.name, config.vision.activation, config.text.activation) == (siglip_folder.name, *["gelu_tanh"] * 2)
    assert (config.vision.eps, config.vision.pool, config.text.pool, config.text.causal) == (
        1e-6,
        "latent",
        "last",
        False,
    )
    found = resolve(
        str(siglip_folder / "config.json"), checkpoint=siglip_folder / "model.safetensors", tokens=word_tokens()
    )
    assert found.normalisation.mean == found.normalisation.std == (0.5, 0.5, 0.5)
    assert found.preprocess.resize == "squash"
    manifest = export_bundle(found, tmp_path / "bundle")
    assert max(manifest.parity["image"].values()) <= 1e-4


def test_what_such_a_checkpoint_must_not_hold(siglip_folder):
    state = dict(read_state(siglip_folder / "model.safetensors"))
    naflex = {**state, "vision_model.embeddings.patch_embedding.weight": torch.zeros(32, 192)}
    save_file(naflex, siglip_folder / "naflex.safetensors")
    with pytest.raises(UnsupportedError, match="NaFlex"):
        read_checkpoint(siglip_folder / "naflex.safetensors")
    save_file({**state, "vision_model.head.bias": torch.zeros(3)}, siglip_folder / "more.safetensors")
    with pytest.raises(ExportError, match=r"Hugging Face's model does not have.*vision_model\.head\.bias"):
        read_checkpoint(siglip_folder / "more.safetensors")


def read_state(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_the_tokenizer_beside_a_configuration_is_taken(tmp_path):
    """A SigLIP in open_clip's files with its SentencePiece tokenizer: the whole way from a text to a map."""
    raw = {**TOWERS["siglip"], "text_cfg": {**TOWERS["siglip"]["text_cfg"], "vocab_size": 95}}
    save_file(
        {key: value.detach().contiguous() for key, value in tiny_model(raw).state_dict().items()},
        tmp_path / "model.safetensors",
    )
    saved(sentencepiece(), tmp_path, "</s>")
    write_config(tmp_path / "mine.json", {**raw, "preprocess_cfg": {"mean": 0.5, "std": 0.5, "resize_mode": "squash"}})
    source = resolve(str(tmp_path / "mine.json"), checkpoint=tmp_path / "model.safetensors")
    manifest = export_bundle(source, tmp_path / "bundle")
    assert (manifest.tokenizer.start, manifest.tokenizer.end, manifest.tokenizer.clean) == (None, 1, "canonicalize")
    explainer = Explainer.load(tmp_path / "bundle")
    found = explainer.explain([photo(0), photo(1)], ["a red car", "A RED, car!", "wet road"], method="chefer")
    assert np.array_equal(found.maps[:, 0], found.maps[:, 1])
    assert relative(found.maps[:, 2], found.maps[:, 0]) > 0.05
    assert relative(found.maps[1], found.maps[0]) > 0.05


def test_a_registered_model_is_prepared_as_its_tags_say(tmp_path):
    """A local file says nothing of mean, std and resizing; where all tags of the model agree, theirs are taken."""
    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    with pytest.warns(UserWarning, match="gelu is assumed"):
        plain = resolve("ViT-B-32", checkpoint=file)
    siglip = resolve("ViT-B-16-SigLIP", checkpoint=file, tokens=word_tokens())
    clipa = resolve("ViT-L-14-CLIPA", checkpoint=file, tokens=word_tokens())
    assert (siglip.normalisation.mean, siglip.preprocess.resize) == ((0.5, 0.5, 0.5), "squash")
    assert (clipa.normalisation.mean[0], clipa.preprocess.interpolation) == (0.485, "bilinear")
    assert plain.preprocess.resize == "shortest"
