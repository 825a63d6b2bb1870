"""Weights and configuration have to fit exactly: nothing missing, nothing misshapen, nothing left over."""

import re
from dataclasses import replace

import numpy as np
import pytest

from eyeshine.errors import ExportError
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.open_clip_config import parse_config
from tiny import arrays, tiny_config, tiny_source

SOURCE = tiny_source(tiny_config(vision={"ls_init_value": 0.1}))
STATE = arrays(SOURCE, np.float32)
OPTIONAL = {name for name in STATE if name.endswith("gamma")} | {"logit_scale"}


def take(state, config=SOURCE.config):
    vision_weights(state, config.vision, config.embed_dim, SOURCE.normalisation.mean, SOURCE.normalisation.std)
    text_weights(state, config.text, config.embed_dim)


def without(name):
    return {key: value for key, value in STATE.items() if key != name}


def test_a_state_that_fits_is_taken():
    take(STATE)
    take({**STATE, "logit_bias": np.float32(-10), "attn_mask": np.zeros((12, 12), np.float32)})
    take(without("logit_scale"))


@pytest.mark.parametrize("name", sorted(set(STATE) - OPTIONAL))
def test_every_missing_and_misshapen_weight_is_named(name):
    with pytest.raises(ExportError, match=rf"missing.*no {re.escape(name)};.*cure"):
        take(without(name))
    named = name.replace("c_fc.weight", "c_fc.bias")  # its own rows are what the MLP's width is read from
    with pytest.raises(ExportError, match=rf"another shape.*{re.escape(named)} .*allowed.*cure"):
        take({**STATE, name: np.concatenate([STATE[name], STATE[name][:1]])})


def test_a_misshapen_layer_scale_is_named():
    name = "visual.transformer.resblocks.1.ls_2.gamma"
    with pytest.raises(ExportError, match=f"another shape.*{name}"):
        take({**STATE, name: STATE[name][:1]})


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("vision", {"layers": 3}), ("text", {"layers": 1}), ("vision", {"layers": 5}), ("vision", {"patch_size": 4}),
        ("vision", {"image_size": 40}), ("vision", {"width": 48}), ("text", {"context_length": 11}),
        ("text", {"vocab_size": 25}),
    ],
)  # fmt: skip
def test_a_configuration_of_another_size_is_refused(section, change):
    with pytest.raises(ExportError, match=r"disagree.*cure: name the configuration"):
        take(STATE, parse_config("other", tiny_config(**{section: change})))


@pytest.mark.parametrize(
    "name",
    [
        "visual.ln_pre_2.weight",
        "visual.transformer.resblocks.0.attn.ln_q.weight",
        "visual.transformer.resblocks.2.ln_attn.weight",
        "transformer.resblocks.0.mlp.ln.weight",
        "text_projection.bias",
        "cls_emb",
    ],
)
def test_a_weight_that_the_configuration_has_no_place_for_is_refused(name):
    """It changes what the model computes, so leaving it out would export another model."""
    with pytest.raises(ExportError, match=rf"no place.*{re.escape(name)}"):
        take({**STATE, name: np.ones(4, np.float32)})


def test_a_norm_before_the_blocks_that_the_configuration_denies_is_refused():
    config = replace(SOURCE.config, vision=replace(SOURCE.config.vision, pre_norm=False))
    with pytest.raises(ExportError, match=r"no place.*visual\.ln_pre"):
        take(STATE, config)
