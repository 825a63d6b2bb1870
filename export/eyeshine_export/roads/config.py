"""What the small road CLIP is: its shape, its tokenizer, and how to build or load it with open_clip's own class."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from eyeshine import roads
from eyeshine.errors import OptionError
from eyeshine_export.compat import import_open_clip

PAD, UNKNOWN, START, END = "<pad>", "<unknown>", "<start>", "<end>"
PREPROCESS: dict[str, Any] = {
    "size": 112,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def make_tokenizer(context: int) -> Tokenizer:
    """The word-level tokenizer: pad 0, unknown 1, words, start, and end, whose id is the largest.

    Encoding lower-cases, splits at spaces and punctuation, wraps in start and end, and pads or cuts to ``context``.
    """
    names = [PAD, UNKNOWN, ",", ".", *roads.words(), START, END]
    tokenizer = Tokenizer(WordLevel({name: k for k, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, len(names) - 2), (END, len(names) - 1)]
    )
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(pad_id=0, pad_token=PAD, length=context)
    return tokenizer


@dataclass(frozen=True)
class Shape:
    """The model's shape; the picture's side and the context length are fixed by the project.

    Raises:
        OptionError: heads that do not divide a width, or patches that do not divide the picture.
    """

    embed: int = 128
    width: int = 192
    layers: int = 6
    head_width: int = 32
    patch: int = 8
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    context: int = 24
    image: int = field(default=112)

    def __post_init__(self) -> None:
        if self.width % self.head_width or self.text_width % self.text_heads:
            raise OptionError(
                "heads must divide their width",
                got=f"{self.width}/{self.head_width} and {self.text_width}/{self.text_heads}",
                allowed="whole numbers",
            )
        if self.image % self.patch:
            raise OptionError("patches must tile the picture", got=f"{self.image}/{self.patch}", allowed="no rest")

    def configuration(self) -> dict[str, Any]:
        """The same as open_clip writes a model's configuration down, with ``preprocess_cfg`` beside it."""
        return {
            "embed_dim": self.embed,
            "init_logit_bias": 0.0,
            "vision_cfg": {
                "image_size": self.image,
                "layers": self.layers,
                "width": self.width,
                "head_width": self.head_width,
                "patch_size": self.patch,
            },
            "text_cfg": {
                "context_length": self.context,
                "vocab_size": make_tokenizer(self.context).get_vocab_size(),
                "width": self.text_width,
                "heads": self.text_heads,
                "layers": self.text_layers,
            },
            "preprocess_cfg": {**PREPROCESS, "size": self.image},
        }


def build(configuration: dict[str, Any]) -> Any:
    """An open_clip ``CLIP`` of this configuration, weights fresh."""
    open_clip = import_open_clip()
    keep = {key: value for key, value in configuration.items() if key != "preprocess_cfg"}
    return open_clip.CLIP(**keep)


def load(folder: Path) -> tuple[Any, Tokenizer, dict[str, Any]]:
    """The model (in evaluation mode), tokenizer and configuration of a run folder.

    Raises:
        OptionError: the folder holds no checkpoint.
    """
    if not (folder / "model.safetensors").exists():
        raise OptionError("no road model in this folder", got=folder, cure="train one: eyeshine_export.roads.train")
    configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = build(configuration)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json")), configuration


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] as the model's input: float32 [B, 3, H, W], (x/255 - mean)/std."""
    out: torch.Tensor = (pixels.permute(0, 3, 1, 2).float() / 255 - PREPROCESS["mean"][0]) / PREPROCESS["std"][0]
    return out


def encode_text(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Unit text embeddings [T, E] of ids [T, L], L at most the context: equal to the model's own, without its padding.

    The text tower is causal and pools at the end token, so what follows that token cannot change anything.
    """
    length = int(ids.argmax(dim=1).max()) + 1
    x = model.token_embedding(ids[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(ids)), ids.argmax(dim=1)] @ model.text_projection
    unit: torch.Tensor = torch.nn.functional.normalize(x, dim=-1)
    return unit


@dataclass(frozen=True)
class Options:
    """How to train. Exactly one of ``steps`` and ``minutes`` bounds the run.

    Args:
        steps, minutes: how long; learning rate and patch dropout follow the share that has passed.
        batch: pictures a step; ``texts``: captions a shard beside the label and phrase prompts.
        shards: threads among which a batch is divided. With more than one, patches are dropped in an order that
            depends on the threads, so that a run cannot be repeated to the bit.
        rate: highest learning rate; ``warmup``: share of the run before it is reached.
        patch_dropout: share of patches left out until ``full_from`` of the run has passed, none after.
        local, forget: two more kinds of dropout, described in ``dropout``.
        sparse_until: share of the run in which only scenes of at most four objects are shown. From nothing, a class
            token finds out what objects are sooner where there are few of them.
        ema: decay of the averaged weights, which are the ones that are saved.
        checkpoint_every: seconds between checkpoints.

    Raises:
        OptionError: an option outside its range.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 64
    texts: int = 24
    shards: int = 2
    rate: float = 1.5e-3
    decay: float = 0.05
    warmup: float = 0.03
    patch_dropout: float = 0.5
    full_from: float = 0.95
    sparse_until: float = 0.25
    local: float = 0.8
    forget: float = 0.8
    ema: float = 0.998
    bf16: bool = True
    checkpoint_every: float = 180.0
    seed: int = 1

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None) or (self.steps or self.minutes or 0) <= 0:
            raise OptionError("a run needs one bound", got=asdict(self), allowed="steps or minutes, above 0")
        shares = dict.fromkeys(("full_from", "sparse_until", "warmup", "forget", "local"), 1.0) | {
            "patch_dropout": 0.9,
            "ema": 0.99999,
        }
        for name, high in shares.items():
            if not 0 <= getattr(self, name) <= high:
                raise OptionError(f"{name} is out of range", got=getattr(self, name), allowed=f"0 to {high}")
        for name in ("batch", "texts", "shards"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is out of range", got=getattr(self, name), allowed="1 and above")
