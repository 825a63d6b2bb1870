"""Small tokenizers of the kinds that text towers other than CLIP's were trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = ["a photo of a red car", "two small dogs on the left", "a tree behind the house", "the road is wet"] * 5


def sentencepiece() -> Tokenizer:
    """As SigLIP's: a unigram model, nothing before a text, one end token behind it."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=specials, unk_token="<unk>")
    )
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return backend


def wordpiece() -> Tokenizer:
    """As CLIPA's: lower case, [CLS] before a text and [SEP] behind it."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials))
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def saved(backend: Tokenizer, folder: Path, pad: Any = None) -> Path:
    """Write tokenizer.json, and what it pads with beside it; returns the former."""
    backend.save(str(folder / "tokenizer.json"))
    if pad is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}), "utf-8")
    return folder / "tokenizer.json"
