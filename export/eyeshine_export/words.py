"""Word-level tokenizers, for small models with a vocabulary of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eyeshine.errors import ExportError, UnsupportedError

__all__ = ["Tokens", "read_word_tokenizer"]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer of the bundle's own: the content of tokenizer.json and its special ids."""

    json: str
    start: int
    end: int
    pad: int
    unknown: int | None
    clean: str


def read_word_tokenizer(path: Path, vocab_size: int) -> Tokens:
    """Read a ``tokenizer.json`` of the ``tokenizers`` library whose model is ``WordLevel``.

    The ids follow one convention: 0 pads, the unknown token is the model's own, start and end are the two largest
    (CLIP's text tower pools at the largest id). Padding, cutting and special tokens are the runtime's business and
    are taken out.

    Raises:
        ExportError: not a tokenizer, or of another size than the text tower's vocabulary.
        UnsupportedError: another kind of tokenizer, named.
    """
    from tokenizers import Tokenizer

    try:
        raw = json.loads(path.read_text("utf-8"))
        tokenizer = Tokenizer.from_str(json.dumps(raw))
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise ExportError("tokenizer cannot be read", got=f"{path}: {error}", cure="name a tokenizer.json") from error
    kind = raw["model"].get("type")
    if kind != "WordLevel":
        raise UnsupportedError("a foreign tokenizer is not supported yet", got=f"{kind}", allowed="CLIP's, WordLevel")
    if tokenizer.get_vocab_size() != vocab_size:
        raise ExportError(
            "tokenizer and text tower disagree",
            got=f"{tokenizer.get_vocab_size()} words",
            allowed=f"{vocab_size} (vocab_size of the configuration)",
        )
    unknown = tokenizer.token_to_id(raw["model"]["unk_token"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    stripped = {**json.loads(tokenizer.to_str()), "post_processor": None}
    text = json.dumps(stripped, ensure_ascii=False, indent=1)
    return Tokens(text, start=vocab_size - 2, end=vocab_size - 1, pad=0, unknown=unknown, clean="lower")
