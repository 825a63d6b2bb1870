"""The captioner's words: a text as ids of whole words and punctuation, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from eyeshine.errors import OptionError

__all__ = ["ANSWER", "END", "PAD", "SPECIAL", "START", "UNKNOWN", "Words"]

PAD, UNKNOWN, START, ANSWER, END = range(5)
SPECIAL: Final = ("<pad>", "<unknown>", "<start>", "<answer>", "<end>")
"""The first five words of every vocabulary, in the order of their ids."""

_SPLIT = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Words:
    """A vocabulary of whole words.

    Args:
        names: ``SPECIAL`` and then lower-case words and punctuation, each once; the place is the id.

    Raises:
        OptionError: a vocabulary that begins otherwise or holds a word twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.names[: len(SPECIAL)] != SPECIAL or len(set(self.names)) != len(self.names):
            raise OptionError("not a vocabulary", got=self.names[:6], allowed=f"{SPECIAL}, then words, each once")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.names)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words; ``UNKNOWN`` for words that are not in the vocabulary."""
        return [self._ids.get(word, UNKNOWN) for word in _SPLIT.findall(text.lower())]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, each once, in order."""
        return list(dict.fromkeys(word for word in _SPLIT.findall(text.lower()) if word not in self._ids))

    def prompt(self, text: str) -> list[int]:
        """``START``, the words of a question, ``ANSWER``: what a response follows."""
        return [START, *self.encode(text), ANSWER]

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by spaces, punctuation attached to the word before it; special words are left out."""
        text = " ".join(self.names[k] for k in ids if k >= len(SPECIAL))
        return re.sub(r" ([^\w\s])", r"\1", text)

    def spelled(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each id's word."""
        return tuple(self.names[k] for k in ids)
