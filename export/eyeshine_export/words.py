"""Tokenizers that are not CLIP's: word-level ones of small models, and those that a text tower was trained with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeshine.errors import ExportError, UnsupportedError
from eyeshine_export.config import TextConfig

__all__ = ["Tokens", "read_tokenizer", "read_word_tokenizer"]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer of the bundle's own: the content of tokenizer.json and its special ids; start is None without one."""

    json: str
    start: int | None
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
    tokenizer, raw = _load(path)
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
    return Tokens(_bare(tokenizer), start=vocab_size - 2, end=vocab_size - 1, pad=0, unknown=unknown, clean="lower")


def read_tokenizer(path: Path, text: TextConfig) -> Tokens:
    """Read the ``tokenizer.json`` that a text tower was trained with: SentencePiece, WordPiece, byte-pair.

    What it puts before and after a text is found by asking it; what fills the rest is named by the file, or by
    ``tokenizer_config.json`` beside it. A tower whose configuration names no tokenizer takes a word-level one.

    Raises:
        ExportError: not a tokenizer, ids that the tower has no embedding for, no end or padding token.
        UnsupportedError: another kind of tokenizer.
    """
    if text.tokenizer is None:
        return read_word_tokenizer(path, text.vocab_size)
    tokenizer, raw = _load(path)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= text.vocab_size:
        raise ExportError(
            "tokenizer and text tower disagree", got=f"id {largest}", allowed=f"below {text.vocab_size} (vocab_size)"
        )
    start, end = _around(tokenizer, path)
    pad = _padding(tokenizer, raw, path)
    if text.end_id is not None and end != text.end_id:
        raise ExportError("tokenizer and text tower disagree", got=f"end id {end}", allowed=f"{text.end_id} (eos_id)")
    model = raw["model"]
    unknown = model.get("unk_id", tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None)
    return Tokens(_bare(tokenizer), start, 0 if text.strip_end else end, pad, unknown, text.clean)


def _load(path: Path) -> tuple[Any, dict[str, Any]]:
    from tokenizers import Tokenizer

    try:
        raw = json.loads(path.read_text("utf-8"))
        tokenizer = Tokenizer.from_str(json.dumps(raw))
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise ExportError("tokenizer cannot be read", got=f"{path}: {error}", cure="name a tokenizer.json") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, raw


def _bare(tokenizer: Any) -> str:
    """Its file without padding, cutting and special tokens, which are the runtime's business."""
    stripped = {**json.loads(tokenizer.to_str()), "post_processor": None}
    return json.dumps(stripped, ensure_ascii=False, indent=1)


def _around(tokenizer: Any, path: Path) -> tuple[int | None, int]:
    """Ids before (None where nothing is) and after a text."""
    inside, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    for before in (0, 1):
        if len(whole) == before + len(inside) + 1 and whole[before : before + len(inside)] == inside:
            return (whole[0] if before else None), whole[-1]
    raise UnsupportedError(
        "a tokenizer must end a text with one token, and may begin it with one",
        got=f"{path.name}: {inside} becomes {whole}",
    )


def _padding(tokenizer: Any, raw: dict[str, Any], path: Path) -> int:
    """Id that fills the context behind a text."""
    if raw.get("padding"):
        return int(raw["padding"]["pad_id"])
    beside = path.with_name("tokenizer_config.json")
    named = json.loads(beside.read_text("utf-8")).get("pad_token") if beside.is_file() else None
    pad = tokenizer.token_to_id(named["content"] if isinstance(named, dict) else named) if named else None
    if pad is None:
        raise ExportError(
            "the tokenizer does not say what it pads with", got=path.name,
            cure="put tokenizer_config.json with its pad_token beside it",
        )  # fmt: skip
    return int(pad)
