"""From texts to token ids, as the bundle's text model was trained with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.clean import Cleaning, cleaner
from eyeshine.errors import BundleError, OptionError, TextError

__all__ = ["Pieces", "Tokenizer"]


@dataclass(frozen=True, eq=False)
class Pieces:
    """A text as the model reads it.

    Attributes:
        text: after cleaning.
        row: int64 ``[context_length]``, as :meth:`Tokenizer.encode` gives it.
        names: the tokens between start and end as the vocabulary spells them; those of a cut text that were kept.
        spans: where each stands in ``text``, (first character, character behind the last).
    """

    text: str
    row: NDArray[np.int64]
    names: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the tokens."""
        return tuple(self.row[1 : 1 + len(self.names)].tolist())

    @cached_property
    def words(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What white space separates, each with the places of its tokens; words that were cut off are left out."""
        runs = [match.span() for match in re.finditer(r"\S+", self.text)]
        places: list[list[int]] = [[] for _ in runs]
        for place, (begin, _) in enumerate(self.spans):
            # A token may begin with the space before its word: it is of the first word that ends behind its beginning.
            places[next((k for k, (_, stop) in enumerate(runs) if stop > begin), len(runs) - 1)].append(place)
        return tuple((self.text[a:b], tuple(found)) for (a, b), found in zip(runs, places, strict=True) if found)


@dataclass(frozen=True)
class Tokenizer:
    """Token ids for texts: ``[start, ids…, end, pad…]``, always ``context_length`` long; start may be missing.

    Use :meth:`load` to read a bundle's ``tokenizer.json``.

    Args:
        backend: a ``tokenizers.Tokenizer`` that splits and looks up; it adds no special tokens, pads and cuts nothing.
        context_length: ids per text, start and end included (at least 3).
        start: id of the first token, or None where a text begins with its own.
        end: id of the token after the text.
        pad: id that fills the rest.
        unknown: the id that stands for a word the vocabulary lacks, or None where every text can be spelled.
        clean: what is done to a text before it is split, see :data:`eyeshine.clean.Cleaning`.

    Raises:
        OptionError: a length, an id or a cleaning outside what is allowed.
    """

    backend: Any
    context_length: int
    start: int | None
    end: int
    pad: int = 0
    unknown: int | None = None
    clean: Cleaning = "clip"

    def __post_init__(self) -> None:
        if self.context_length < 3:
            raise OptionError("context length too small", got=self.context_length, allowed="3 or more")
        for name, token in (("start", self.start), ("end", self.end), ("pad", self.pad), ("unknown", self.unknown)):
            if token is not None and token < 0:
                raise OptionError(f"the {name} token is not an id", got=token, allowed="0 or more")
        if self.clean not in get_args(Cleaning):
            raise OptionError("unknown text cleaning", got=repr(self.clean), allowed=", ".join(get_args(Cleaning)))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        context_length: int,
        start: int | None,
        end: int,
        pad: int = 0,
        unknown: int | None = None,
        clean: Cleaning = "clip",
    ) -> Tokenizer:
        """Read ``tokenizer.json``; the other arguments are those of the class.

        Raises:
            BundleError: the file is missing or is not a tokenizer.
            OptionError: as the class.
        """
        from tokenizers import Tokenizer as Backend  # 25 ms, and only those who encode texts pay for it

        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"cannot read the tokenizer ({error})", got=path, cure="export the bundle again"
            ) from error
        try:
            backend = Backend.from_str(text)
        except Exception as error:  # the library raises plain Exception for every malformed file
            raise BundleError(f"damaged tokenizer ({error})", got=path, cure="export the bundle again") from error
        return cls(backend, context_length, start, end, pad, unknown, clean)

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids of each text.

        Args:
            texts: P texts; a blank one is allowed and gives start and end alone.
            truncate: cut a text that is too long, as CLIP's own tokenizer does (the last id is then ``end``).

        Returns:
            int64 ``[P, context_length]``.

        Raises:
            TextError: not a sequence of strings, or a text that is too long and ``truncate`` is False.
        """
        if isinstance(texts, str | bytes):
            raise TextError("a single text where a list of texts is due", got=repr(texts), cure="pass [text]")
        ids = np.full((len(texts), self.context_length), self.pad, np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = [*self._before, *self._split(text).ids, self.end]
            if len(tokens) > self.context_length:
                if not truncate:
                    raise self._too_long(text, len(tokens))
                tokens = [*tokens[: self.context_length - 1], self.end]
            row[: len(tokens)] = tokens
        return ids

    def pieces(self, text: str, *, truncate: bool = False) -> Pieces:
        """The tokens of one text, with their places in it.

        Raises:
            TextError: as ``encode``.
        """
        row = self.encode([text], truncate=truncate)[0]
        # The model reads up to the first end, which a text may spell out.
        count = int((row == self.end).argmax()) - len(self._before)
        found = self._split(text)
        return Pieces(cleaner(self.clean)(text), row, tuple(found.tokens[:count]), tuple(found.offsets[:count]))

    @property
    def blank_length(self) -> int:
        """Ids of a text of which nothing is left after cleaning."""
        return len(self._before) + 1

    def unknown_words(self, text: str) -> list[str]:
        """The words of ``text`` (cleaned) that the vocabulary lacks, each once, in order; none without ``unknown``."""
        if self.unknown is None:
            return []
        encoding = self._split(text)
        cleaned = cleaner(self.clean)(text)
        spans = (span for span, token in zip(encoding.offsets, encoding.ids, strict=True) if token == self.unknown)
        return list(dict.fromkeys(cleaned[begin:end] for begin, end in spans))

    @property
    def _before(self) -> list[int]:
        return [] if self.start is None else [self.start]

    def _split(self, text: str) -> Any:
        if not isinstance(text, str):
            raise TextError("a text is not a string", got=type(text).__name__, allowed="str")
        return self.backend.encode(cleaner(self.clean)(text), add_special_tokens=False)

    def _too_long(self, text: str, tokens: int) -> TextError:
        shown = text if len(text) <= 60 else f"{text[:57]}…"
        return TextError(
            f"text too long for this model: {shown!r}",
            got=f"{tokens} tokens (start and end included)",
            allowed=f"up to {self.context_length}",
            cure="shorten it, or cut it with truncate=True (--truncate)",
        )
