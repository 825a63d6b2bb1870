"""An oracle of the text side: open_clip's own text modules, with every block's tensors and their derivatives."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tiny import VOCABULARY, tiny_model

LAST = len(VOCABULARY) - 1
"""Id of the end token of tiny models."""


def open_clip_words(raw: dict, tokens: np.ndarray, image: np.ndarray, layers: int, end: int = LAST) -> dict:
    """open_clip's text tower, block after block with attention written out head by head; autograd, float64.

    Args:
        raw: configuration of a tiny model.
        tokens: [P, L] ids.
        image: [B, E].
        layers: how many of the last blocks.
        end: id of the end token.

    Returns:
        The signals of the group "words", and ``attention_gradient`` [P, B, K, H, L]: dc/dA of the end token's row.
    """
    model = tiny_model(raw).double()
    kept = {name: [] for name in ("query", "key", "value", "attention", "mixed")}
    ids = torch.from_numpy(tokens)
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
    for block in model.transformer.resblocks:
        heads, width = block.attn.num_heads, x.shape[-1]
        packed = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
        query, key, value = packed.split(width, -1)
        rows = []
        for head in range(heads):
            part = slice(head * (width // heads), (head + 1) * (width // heads))
            scores = query[..., part] @ key[..., part].transpose(1, 2) / (width // heads) ** 0.5
            later = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
            rows.append(scores.masked_fill(later, -torch.inf).softmax(-1))
        attention = torch.stack(rows, 1)
        mixed = torch.einsum("phij,pjhd->pihd", attention, value.unflatten(-1, (heads, -1))).flatten(2)
        for name, tensor in zip(kept, (query, key, value, attention, mixed), strict=True):
            kept[name].append(tensor)
        x = x + block.ls_1(block.attn.out_proj(mixed))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    places = [int((row == end).nonzero()[0, 0]) for row in ids]
    embedding = torch.stack([model.ln_final(text[place]) for text, place in zip(x, places, strict=True)])
    cosines = F.cosine_similarity((embedding @ model.text_projection)[:, None], torch.from_numpy(image)[None], dim=-1)

    def at_end(tensor):  # [P, L, ...]
        return torch.stack([text[place] for text, place in zip(tensor, places, strict=True)])

    def derivatives(name, row):
        found = [torch.autograd.grad(c.sum(), kept[name][-layers:], retain_graph=True) for c in cosines.T]
        return torch.stack([torch.stack([at_end(row(g)) for g in per_image], 1) for per_image in found], 1)

    result = {
        "text_embedding": model.encode_text(F.pad(ids, (0, model.context_length - ids.shape[1])), normalize=True),
        "text_similarity": cosines,
        "text_queries": torch.stack(kept["query"][-layers:], 1),
        "text_keys": torch.stack(kept["key"][-layers:], 1),
        "text_values": torch.stack(kept["value"][-layers:], 1),
        "text_attention": torch.stack([at_end(a.transpose(1, 2)) for a in kept["attention"][-layers:]], 1),
        "text_gradient": derivatives("mixed", lambda g: g),
        "attention_gradient": derivatives("attention", lambda g: g.transpose(1, 2)),
    }
    return {name: tensor.detach().numpy() for name, tensor in result.items()}
