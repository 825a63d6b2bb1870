"""Model configurations: every one that open_clip registers is read as open_clip reads it, or refused by name."""

import json

import numpy as np
import pytest
import torch

from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.checkpoint import _strip
from eyeshine_export.compat import import_open_clip
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.open_clip_config import parse_config, read_config
from eyeshine_export.timm_tower import from_timm
from tiny import tiny_config, write_config

open_clip = import_open_clip()
SMALL = "ViT-S-32 ViT-S-32-alt ViT-S-16 ViT-S-16-alt ViT-M-32 ViT-M-32-alt ViT-M-16 ViT-M-16-alt"
BASE = "ViT-B-32 ViT-B-32-quickgelu ViT-B-32-256 ViT-B-32-plus-256 ViT-B-16 ViT-B-16-quickgelu ViT-B-16-plus"
LARGE = "ViT-B-16-plus-240 ViT-L-16 ViT-L-16-320 ViT-L-14 ViT-L-14-quickgelu ViT-L-14-280 ViT-L-14-336"
HUGE = "ViT-L-14-336-quickgelu ViT-H-16 ViT-H-14 ViT-H-14-quickgelu ViT-H-14-378 ViT-H-14-378-quickgelu"
LARGEST = "ViT-g-14 ViT-e-14 ViT-bigG-14 ViT-bigG-14-quickgelu"
SUPPORTED = [name for group in (SMALL, BASE, LARGE, HUGE, LARGEST) for name in group.split(" ")]
FAMILIES = ("openai", "laion", "datacomp", "commonpool", "metaclip", "dfn")


def reason(raw):
    """What stands in the way of a registered configuration; None where nothing does."""
    vision, text = raw["vision_cfg"], raw["text_cfg"]
    if isinstance(vision.get("layers"), list):
        return "ResNet"
    if "timm_model_name" in vision and "siglip" not in vision["timm_model_name"]:
        return "timm image tower"
    return "Hugging Face text tower" if "hf_model_name" in text else None


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_registered_model_is_read_or_refused_by_name(name):
    raw = open_clip.get_model_config(name)
    why = reason(raw)
    if why is None:
        assert parse_config(name, raw).name == name
    else:
        with pytest.raises(UnsupportedError, match=f"^{name}: {why}.*not supported yet.*allowed"):
            parse_config(name, raw)


def test_what_is_supported_stays_supported():
    registered = {name for name in open_clip.list_models() if reason(open_clip.get_model_config(name)) is None}
    assert set(SUPPORTED) <= registered


def test_every_pretrained_vit_of_the_families_is_read():
    pairs = [(n, t) for n, t in open_clip.list_pretrained() if n.startswith("ViT") and t.startswith(FAMILIES)]
    found = {tag.split("_")[0] for _, tag in pairs}
    assert found >= {"openai", "laion400m", "laion2b", "datacomp", "metaclip", "dfn2b"}
    refused = set()
    for name, _ in pairs:
        try:
            parse_config(name, open_clip.get_model_config(name))
        except UnsupportedError:
            refused.add(name)
    assert [name for name in refused if "ViTamin" not in name] == []  # a tower of timm's


@pytest.mark.parametrize("name", SUPPORTED)
def test_read_as_open_clip_reads_it(name):
    """Sizes, heads, activations and weights are those of the model that open_clip builds (without its memory)."""
    raw = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.CLIP(**raw)
    config = parse_config(name, raw)
    vision, text, visual = config.vision, config.text, model.visual
    block, text_block = visual.transformer.resblocks[0], model.transformer.resblocks[0]
    assert (vision.image_size, vision.patch_size, vision.grid) == (
        visual.image_size,
        visual.patch_size,
        visual.grid_size,
    )
    assert (vision.heads, text.heads) == (block.attn.num_heads, text_block.attn.num_heads)
    assert (vision.eps, text.eps) == (block.ln_1.eps, text_block.ln_1.eps)
    assert vision.pre_norm == isinstance(visual.ln_pre, torch.nn.LayerNorm)
    quick = isinstance(block.mlp.gelu, open_clip.transformer.QuickGELU)
    assert vision.activation == text.activation == ("quick_gelu" if quick else "gelu")
    assert (text.end_id, model.text_pool_type) == (None, "argmax")

    state = {key: np.broadcast_to(np.float32(0), tuple(value.shape)) for key, value in model.state_dict().items()}
    assert len(vision_weights(state, vision, config.embed_dim, (0, 0, 0), (1, 1, 1)).blocks) == vision.layers
    assert len(text_weights(state, text, config.embed_dim).blocks) == text.layers


REFUSED_IN_VISION = {
    "pooling": {"attentional_pool": "cascade"},
    "pooling is": {"attentional_pool": True, "pool_type": "avg"},
    "pooling .*none": {"pool_type": "none"},
    "timm image tower": {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "avg", "timm_proj": "none"},
    "timm image tower is": {"timm_model_name": "vit_base_patch16_224", "timm_pool": "map", "timm_proj": "linear"},
    "act_kwargs": {"act_kwargs": {"approximate": "erf"}},
    "qk_norm": {"qk_norm": True},
    "scaled_cosine_attn": {"scaled_cosine_attn": True},
    "scale_heads": {"scale_heads": True},
    "scale_attn_inner": {"scale_attn_inner": True},
    "scale_attn": {"scale_attn": True},
    "scale_fc": {"scale_fc": True},
    "block_type": {"block_type": "custom"},
    "norm_kwargs": {"norm_kwargs": {"eps": 1e-6, "elementwise_affine": False}},
    "ResNet": {"layers": [3, 4, 6, 3]},
    "rotary": {"rotary": True},
}
REFUSED_IN_TEXT = {
    "Hugging Face text tower": {"hf_model_name": "roberta-base"},
    "tokenizer_mode": {"tokenizer_mode": "syntax"},
    "tokenizer_kwargs": {"tokenizer_kwargs": {"language": "eng_Latn"}},
    "tokenizer_kwargs are": {"tokenizer_kwargs": {"clean": "nothing"}},
    "proj_type": {"proj_type": "mlp"},
    "pool_type": {"pool_type": "first"},
    "qk_norm": {"qk_norm": True},
    "scale_fc": {"scale_fc": True},
    "act_kwargs": {"act_kwargs": {"approximate": "erf"}},
    "rotary": {"rotary": True},
}


@pytest.mark.parametrize(
    ("section", "what", "values"),
    [("vision", what, values) for what, values in REFUSED_IN_VISION.items()]
    + [("text", what, values) for what, values in REFUSED_IN_TEXT.items()],
)
def test_a_feature_that_is_not_built_is_refused_by_name(section, what, values):
    with pytest.raises(UnsupportedError, match=f"tiny: .*{what}"):
        parse_config("tiny", tiny_config(**{section: values}))


def test_defaults_written_out_are_no_feature():
    plain = {"qk_norm": False, "block_type": "default", "pool_type": "tok", "act_kwargs": None, "timm_model_name": ""}
    assert parse_config("tiny", tiny_config(vision=plain)) == parse_config("tiny", tiny_config())
    for inert in (
        {"act_kwargs": {"approximate": "none"}},
        {"patch_dropout": 0.5},
        {"output_tokens": True},
        {"final_ln_after_pool": True},
    ):
        assert parse_config("tiny", tiny_config(vision=inert)) == parse_config("tiny", tiny_config())


@pytest.mark.parametrize(
    "name",
    ["ViT-B-16-SigLIP", "ViT-B-32-SigLIP2-256", "ViT-SO400M-14-SigLIP-378", "ViT-SO400M-16-SigLIP-i18n-256",
     "coca_ViT-B-32", "coca_ViT-L-14", "ViT-L-14-CLIPA", "ViT-H-14-worldwide"],
)  # fmt: skip
def test_other_towers_are_read_as_open_clip_reads_them(name):
    """Sizes, pooling and weights are those of the model that open_clip builds (without its memory)."""
    raw = open_clip.get_model_config(name)
    arguments = {key: value for key, value in raw.items() if key != "custom_text"}
    kind = open_clip.CustomTextCLIP if raw.get("custom_text") else open_clip.CLIP
    with torch.device("meta"):
        model = (open_clip.CoCa if "multimodal_cfg" in raw else kind)(**arguments)
    config = parse_config(name, raw)
    vision, text = config.vision, config.text
    state = to_keys({key: torch.empty(value.shape, device="meta") for key, value in model.state_dict().items()})
    shapes = {key: np.broadcast_to(np.float32(0), tuple(value.shape)) for key, value in state.items()}
    weights = vision_weights(shapes, vision, config.embed_dim, (0, 0, 0), (1, 1, 1))
    assert (len(weights.blocks), weights.projection.shape[1]) == (vision.layers, config.embed_dim)
    assert (vision.pool == "latent") == (weights.pooler is not None)
    read = text_weights(shapes, text, config.embed_dim)
    assert (len(read.blocks), read.appended is not None) == (text.layers, text.pool == "appended")
    theirs = getattr(model, "text", model)
    assert text.causal == (theirs.attn_mask is not None)
    assert (text.pool, text.tokenizer) == (
        "appended" if "multimodal_cfg" in raw else "last" if raw["text_cfg"].get("pool_type") == "last" else "end",
        raw["text_cfg"].get("hf_tokenizer_name"),
    )


def to_keys(state):
    """What a checkpoint's reading does to keys, for tensors without memory."""
    found = _strip(state)
    return from_timm(found) if "visual.trunk.attn_pool.latent" in found else found


def test_a_timm_tower_of_another_size_is_an_error():
    raw = open_clip.get_model_config("ViT-B-16-SigLIP")
    with pytest.raises(ExportError, match="timm's vit_base_patch16_siglip_224 disagree"):
        parse_config("mine", {**raw, "vision_cfg": {**raw["vision_cfg"], "image_size": 256}})
    with pytest.raises(ExportError, match="timm does not build"):
        parse_config("mine", {**raw, "vision_cfg": {**raw["vision_cfg"], "timm_model_name": "vit_no_siglip"}})


def test_sizes_eps_and_pooling_are_read():
    vision = {"image_size": [30, 50], "patch_size": [7, 8], "norm_kwargs": {"eps": 1e-6}, "no_ln_pre": True}
    config = parse_config("tiny", tiny_config(vision, {"pool_type": "eos", "eos_id": 5}, quick_gelu=True))
    assert (config.vision.grid, config.vision.eps, config.vision.pre_norm) == ((4, 6), 1e-6, False)
    assert (config.text.end_id, config.text.activation) == (5, "quick_gelu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"vision": {"width": 33}}, {"vision": {"width": 8}}, {"vision": {"layers": 0}}, {"vision": {"width": None}},
        {"vision": {"image_size": [1, 2, 3]}}, {"vision": {"patch_size": 0}}, {"vision": {"patch_size": 64}},
        {"vision": {"head_width": 0}}, {"text": {"heads": 5}}, {"embed_dim": "many"}, {"embed_dim": 0},
        {"vision_cfg": 3},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_do_not_fit_are_errors(wrong):
    with pytest.raises(ExportError):
        parse_config("tiny", tiny_config(**wrong))


def test_files_of_open_clip_and_of_the_hub_are_read(tmp_path):
    raw = tiny_config(custom_text=True)
    name, found = read_config(write_config(tmp_path / "mine.json", raw))
    assert (name, found) == ("mine", raw)
    hub = {"model_cfg": raw, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    assert read_config(write_config(tmp_path / "hub.json", hub))[1] == {**raw, "preprocess_cfg": {"mean": [0.5] * 3}}


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe", b'{"model_cfg": 3}', json.dumps("x").encode()])
def test_files_that_are_no_configuration_are_errors(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="configuration"):
        read_config(path)
    with pytest.raises(ExportError, match="cannot be read"):
        read_config(tmp_path / "missing.json")
