"""An open_clip state dictionary in the key layouts of others: OpenAI and Hugging Face.

Written from their side, as a mapping onto the names of ``CLIPModel``; its keys and its numbers were compared with
transformers 5.23 (equal to 4e-7).
"""

from __future__ import annotations

import torch

State = dict[str, torch.Tensor]


def openai_layout(state: State, image_size: int, context_length: int, vocab_size: int) -> State:
    """OpenAI's archive: open_clip's keys, half precision, and three numbers stored as tensors."""
    halves = {name: value.half() for name, value in state.items()}
    sizes = {"input_resolution": image_size, "context_length": context_length, "vocab_size": vocab_size}
    return {**halves, **{name: torch.tensor(value) for name, value in sizes.items()}}


def huggingface_layout(state: State) -> State:
    """``CLIPModel``'s keys: one projection each for query, key and value; projections of the towers as Linear."""
    result = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        result[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        result[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        result[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
            index = 0
            while f"{prefix}transformer.resblocks.{index}.ln_1.{kind}" in state:
                ours, theirs = f"{prefix}transformer.resblocks.{index}", f"{tower}.encoder.layers.{index}"
                query, key, value = state[f"{ours}.attn.in_proj_{kind}"].chunk(3)
                result[f"{theirs}.self_attn.q_proj.{kind}"] = query
                result[f"{theirs}.self_attn.k_proj.{kind}"] = key
                result[f"{theirs}.self_attn.v_proj.{kind}"] = value
                result[f"{theirs}.self_attn.out_proj.{kind}"] = state[f"{ours}.attn.out_proj.{kind}"]
                result[f"{theirs}.layer_norm1.{kind}"] = state[f"{ours}.ln_1.{kind}"]
                result[f"{theirs}.layer_norm2.{kind}"] = state[f"{ours}.ln_2.{kind}"]
                result[f"{theirs}.mlp.fc1.{kind}"] = state[f"{ours}.mlp.c_fc.{kind}"]
                result[f"{theirs}.mlp.fc2.{kind}"] = state[f"{ours}.mlp.c_proj.{kind}"]
                index += 1
    return {name: value.contiguous() for name, value in result.items()}


def siglip_layout(state: State) -> State:
    """``SiglipModel``'s keys from timm's, written from their side."""
    trunk = {key.removeprefix("visual.trunk."): value for key, value in state.items() if "visual.trunk." in key}
    found = {"logit_scale": state["logit_scale"].reshape(1), "logit_bias": state["logit_bias"].reshape(1)}
    image, text, head = "vision_model", "text_model", "vision_model.head"
    for kind in ("weight", "bias"):
        found[f"{image}.embeddings.patch_embedding.{kind}"] = trunk[f"patch_embed.proj.{kind}"]
        found[f"{image}.post_layernorm.{kind}"] = trunk[f"norm.{kind}"]
        found[f"{head}.attention.in_proj_{kind}"] = torch.cat(
            [trunk[f"attn_pool.q.{kind}"], trunk[f"attn_pool.kv.{kind}"]]
        )
        found[f"{head}.attention.out_proj.{kind}"] = trunk[f"attn_pool.proj.{kind}"]
        found[f"{head}.layernorm.{kind}"] = trunk[f"attn_pool.norm.{kind}"]
        found[f"{text}.final_layer_norm.{kind}"] = state[f"text.ln_final.{kind}"]
        found[f"{text}.head.{kind}"] = state[f"text.text_projection.{kind}"]
        for fc in ("fc1", "fc2"):
            found[f"{head}.mlp.{fc}.{kind}"] = trunk[f"attn_pool.mlp.{fc}.{kind}"]
        for index in range(2):
            ours, theirs = f"blocks.{index}", f"{image}.encoder.layers.{index}"
            for part, piece in zip("qkv", trunk[f"{ours}.attn.qkv.{kind}"].chunk(3), strict=True):
                found[f"{theirs}.self_attn.{part}_proj.{kind}"] = piece
            found[f"{theirs}.self_attn.out_proj.{kind}"] = trunk[f"{ours}.attn.proj.{kind}"]
            ours_text, theirs_text = f"text.transformer.resblocks.{index}", f"{text}.encoder.layers.{index}"
            for part, piece in zip("qkv", state[f"{ours_text}.attn.in_proj_{kind}"].chunk(3), strict=True):
                found[f"{theirs_text}.self_attn.{part}_proj.{kind}"] = piece
            found[f"{theirs_text}.self_attn.out_proj.{kind}"] = state[f"{ours_text}.attn.out_proj.{kind}"]
            for number in ("1", "2"):
                found[f"{theirs}.layer_norm{number}.{kind}"] = trunk[f"{ours}.norm{number}.{kind}"]
                found[f"{theirs}.mlp.fc{number}.{kind}"] = trunk[f"{ours}.mlp.fc{number}.{kind}"]
                found[f"{theirs_text}.layer_norm{number}.{kind}"] = state[f"{ours_text}.ln_{number}.{kind}"]
            found[f"{theirs_text}.mlp.fc1.{kind}"] = state[f"{ours_text}.mlp.c_fc.{kind}"]
            found[f"{theirs_text}.mlp.fc2.{kind}"] = state[f"{ours_text}.mlp.c_proj.{kind}"]
    found[f"{head}.probe"] = trunk["attn_pool.latent"]
    found[f"{image}.embeddings.position_embedding.weight"] = trunk["pos_embed"][0]
    found[f"{text}.embeddings.token_embedding.weight"] = state["text.token_embedding.weight"]
    found[f"{text}.embeddings.position_embedding.weight"] = state["text.positional_embedding"]
    return {key: value.contiguous().clone() for key, value in found.items()}
