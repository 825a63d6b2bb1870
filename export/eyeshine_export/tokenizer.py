"""CLIP's byte-pair tokenizer as a file for the ``tokenizers`` library."""

from __future__ import annotations

from typing import Any

from eyeshine_export.compat import import_open_clip

__all__ = ["clip_tokenizer_json", "clip_tokenizer_settings"]

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def clip_tokenizer_json() -> str:
    """The ``tokenizer.json`` of CLIP's vocabulary of 49,408 tokens, built from open_clip's ``SimpleTokenizer``.

    It splits and looks up text that was cleaned before (:func:`eyeshine.clean.clean_clip`); it adds no start and end,
    and neither pads nor cuts. The result is the same on every run with the same open_clip and ``regex``.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    source = _simple_tokenizer()
    vocabulary: dict[str, int] = dict(source.encoder)
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    for token in _special_tokens(source):
        _spell_out(token, source, vocabulary, merges)
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    words = Split(Regex(_word_pattern(source)), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    text: str = tokenizer.to_str()
    return text


def clip_tokenizer_settings(context_length: int = 77) -> dict[str, Any]:
    """What :meth:`eyeshine.tokenizer.Tokenizer.load` needs beside the file of :func:`clip_tokenizer_json`."""
    source = _simple_tokenizer()
    ids = {"start": source.sot_token_id, "end": source.eot_token_id, "pad": 0, "unknown": None}
    return {"context_length": context_length, **ids, "clean": "clip"}


def _simple_tokenizer() -> Any:
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def _special_tokens(source: Any) -> list[str]:
    return [source.decoder[token] for token in source.all_special_ids]


def _spell_out(token: str, source: Any, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Add merges, after all others, by which the word ``token`` becomes its one id.

    open_clip takes a special token that stands in a text for the token itself, but only where its split finds it as a
    word ("!<end_of_text>" is punctuation and letters). The library's own added tokens match anywhere, so merges do it.
    No other word is touched: a word that holds both "<" and a letter is a special token. The pieces between get ids
    beyond the vocabulary; as every such word goes on to the end, they never come out.
    """
    del source.cache[token]  # it holds the token itself, and the pieces are wanted
    pieces = source.bpe(token).split(" ")
    joined = pieces[0]
    for piece in pieces[1:]:
        merges.append((joined, piece))
        joined += piece
        vocabulary.setdefault(joined, len(vocabulary))
    vocabulary[joined] = vocabulary.pop(token)


def _word_pattern(source: Any) -> str:
    r"""open_clip's split into words, with its classes of characters written out as ranges.

    Written out because ``\p{L}`` follows the Unicode tables of each library: those of the ``regex`` that open_clip uses
    hold 17,480 letters and numbers that those of ``tokenizers`` 0.23 lack. And so a bundle splits the same for ever.
    U+0345 is in no class (a mark whose upper case is a letter, matched without regard to case), so open_clip drops it.
    """
    letters, number, others = (_ranges(pattern, source) for pattern in (r"\p{L}+", r"\p{N}+", r"[^\s\p{L}\p{N}]+"))
    whole = [_any_case(word) for word in (*_special_tokens(source), *_CONTRACTIONS)]
    return "|".join([*whole, f"[{letters}]+", f"[{number}]", f"[{others}]+"])


def _any_case(word: str) -> str:
    """``word`` in any case, with the long s that case-insensitive matching takes for an s."""
    return "".join(f"[{c}{c.upper()}{'ſ' * (c == 's')}]" if c.isalpha() else c for c in word)


def _ranges(pattern: str, source: Any) -> str:
    """The characters that open_clip's regular expressions match with ``pattern``, as ranges of a character class."""
    from open_clip.tokenizer import re as regex  # the library that open_clip itself splits with

    characters = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    runs = regex.findall(pattern, characters, flags=source.pat.flags)
    return "".join(rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)
