"""Texts to vectors: templates, tokenizer, ``text.onnx``, and a bounded cache of what was seen."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.engine import Session
from eyeshine.errors import OptionError, TextError, UnknownWordsWarning
from eyeshine.tokenizer import Pieces, Tokenizer

__all__ = ["TextEncoder", "TextVector", "check_texts"]

Vector = NDArray[np.float32]


class TextVector(str):
    """A text that comes with its own vector: from another model, or a mean of several texts.

    It goes wherever a text goes, and is explained by its vector; as a string it is the name that results show. It
    equals nothing but itself, so that it is never taken for the text that it is named after.

    Args:
        name: not blank.
        vector: [E], a direction in the joint space of the bundle, of any length but 0.

    Attributes:
        vector: float32 [E], of length 1, read-only.

    Raises:
        TextError: a blank name, or a vector that is not one-dimensional, not finite or all zeros.
    """

    vector: Vector

    def __new__(cls, name: str, vector: ArrayLike) -> TextVector:
        if not isinstance(name, str) or not name.strip():
            raise TextError("a text vector needs a name", got=repr(name), allowed="a text that is not blank")
        values = _numbers(name, vector)
        length = float(np.linalg.norm(values))
        if not np.isfinite(length) or length == 0:
            got = "zeros" if length == 0 else "values that are not finite"
            raise TextError(f"the vector of {name!r} has no direction", got=got, allowed="finite numbers, not all 0")
        self = super().__new__(cls, name)
        self.vector = (values / length).astype(np.float32)
        self.vector.flags.writeable = False
        return self

    def __getnewargs__(self) -> tuple[str, Vector]:  # type: ignore[override]  # str has its text alone
        return str(self), self.vector

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return object.__hash__(self)


def _numbers(name: str, vector: ArrayLike) -> NDArray[np.float64]:
    """The vector as float64 [E]: the square of a large float32 would overflow."""
    try:
        values = np.asarray(vector, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TextError(f"the vector of {name!r} is not numeric", got=type(vector).__name__, allowed="[E]") from error
    if values.ndim != 1 or not values.size:
        raise TextError(f"the vector of {name!r} is of another shape", got=list(values.shape), allowed="[E]")
    return values


def check_texts(texts: Sequence[str], what: str = "text") -> list[str]:
    """Return the texts as a list; ``what`` names them in errors.

    Raises:
        TextError: a bare string, no text, something that is not a string, or a blank text.
    """
    if isinstance(texts, str):
        raise TextError("texts must be a list", got=repr(texts), cure=f"[{texts!r}]")
    if not isinstance(texts, Iterable):
        raise TextError("texts must be a list", got=type(texts).__name__, allowed="strings")
    listed = list(texts)
    if not listed:
        raise TextError("no text to explain", got="an empty list", allowed="one text or more")
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise TextError(f"{what} {index} is not a string", got=type(text).__name__, allowed="str")
        if not text.strip():
            raise TextError(f"{what} {index} is blank", got=repr(text), cure="leave it out")
    return listed


class TextEncoder:
    """Encodes texts once; a text that was seen costs no forward pass.

    May be used from several threads.

    Args:
        tokenizer: of the bundle.
        session: gives the session of ``text.onnx``, called at the first text that was not seen.
        templates: each with one ``{}``; several are averaged in the joint space. Empty: the text as it stands.
        capacity: texts in the cache to begin with, see ``reserve``; the least recently used goes first.
    """

    def __init__(
        self, tokenizer: Tokenizer, session: Callable[[], Session], templates: Sequence[str] = (), capacity: int = 1024
    ) -> None:
        if isinstance(templates, str):
            raise OptionError("templates must be a list", got=repr(templates), cure=f"[{templates!r}]")
        for template in templates:
            if not isinstance(template, str) or template.count("{}") != 1:
                raise OptionError("a template needs exactly one {}", got=repr(template), allowed="'a photo of a {}.'")
        if not isinstance(capacity, int) or capacity < 1:
            raise OptionError("capacity of the text cache must be positive", got=capacity, allowed="1 and more")
        self.tokenizer, self.templates, self.capacity = tokenizer, tuple(templates), capacity
        self._session, self._asked = session, capacity
        self._cache: OrderedDict[tuple[str, bool], Vector] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    def reserve(self, count: int) -> None:
        """Let the cache hold so many texts more than it was made for: labels that every image is compared with.

        A set of labels larger than the cache would push itself out, and be encoded anew for every image.
        """
        with self._lock:
            self.capacity = max(self.capacity, self._asked + count)

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> Vector:
        """Unit vectors [P, E].

        Args:
            texts: P texts, not blank but for "", no text at all; the vector of a ``TextVector`` is taken as it is.
            truncate: accept a text that is longer than the context and cut it.

        Raises:
            TextError: a text longer than the context, unless ``truncate``; or a vector of another space.

        Warns:
            UnknownWordsWarning: words that the model never saw, named.
        """
        with self._lock:
            known = {text: self._cache[text, truncate] for text in texts if (text, truncate) in self._cache}
            for text in known:
                self._cache.move_to_end((text, truncate))
        known.update((text, self._checked(text)) for text in texts if isinstance(text, TextVector))
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            fresh = self._forward(missing, truncate)
            known.update(zip(missing, fresh, strict=True))
            with self._lock:
                self._cache.update({(text, truncate): known[text] for text in missing})
                while len(self._cache) > self.capacity:
                    self._cache.popitem(last=False)
        return np.stack([known[text] for text in texts])

    def pieces(self, texts: Sequence[str], *, truncate: bool = False, warn: bool = True) -> list[Pieces]:
        """The tokens of each text, for explanations of them; a single template is part of the text.

        Args:
            texts: as ``encode``, but for vectors.
            truncate: as ``encode``.
            warn: of words that the model never saw.

        Raises:
            TextError: a ``TextVector``, which has no tokens; and as ``encode``.
            OptionError: several templates, whose mean is no text.

        Warns:
            UnknownWordsWarning: as ``encode``.
        """
        if len(self.templates) > 1:
            raise OptionError(
                "tokens of one text are explained, and several templates make a mean of texts",
                got=f"{len(self.templates)} templates", allowed="one template, or none",
            )  # fmt: skip
        for text in texts:
            if isinstance(text, TextVector):
                raise TextError("a text vector has no tokens to explain", got=repr(text), cure="pass the text itself")
        filled = self._filled(texts)
        if warn:
            self._warn(filled)
        found = [self.tokenizer.pieces(text, truncate=truncate) for text in filled]
        for text, each in zip(filled, found, strict=True):
            if not each.names:
                raise self._nothing_left(text)
        return found

    def _filled(self, texts: Sequence[str]) -> list[str]:
        """Every text in every template."""
        return [template.replace("{}", text) for text in texts for template in self.templates or ("{}",)]

    @staticmethod
    def _nothing_left(text: str) -> TextError:
        return TextError("nothing is left of a text after cleaning", got=repr(text), cure="leave it out")

    def _checked(self, text: TextVector) -> Vector:
        """The vector, if it is one of this model's joint space."""
        width = self._session().output_dims["text_embedding"][1]
        if text.vector.size != width:
            cure = "project it into the joint space of this bundle"
            raise TextError(
                f"the vector of {text!r} is of another space", got=text.vector.size, allowed=str(width), cure=cure
            )
        return text.vector

    def _forward(self, texts: list[str], truncate: bool) -> list[Vector]:
        filled = self._filled(texts)
        self._warn(filled)
        ids = self.tokenizer.encode(filled, truncate=truncate)
        lengths = (ids == self.tokenizer.end).argmax(axis=1) + 1
        empty = self.tokenizer.blank_length
        blank = [text for text, length in zip(filled, lengths, strict=True) if text and length == empty]
        if blank:
            raise self._nothing_left(blank[0])
        # Where the mask is causal what stands after the end token changes nothing, and texts of one length go together
        # without padding. Where it is not the graph takes the whole context.
        if isinstance(self._session().input_dims["tokens"][1], int):
            lengths[:] = self.tokenizer.context_length
        vectors: Vector | None = None
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            run = self._session().run({"tokens": ids[rows, :length]}, ["text_embedding"])
            part = run.outputs["text_embedding"]
            vectors = np.empty((len(ids), part.shape[1]), np.float32) if vectors is None else vectors
            vectors[rows] = part
        assert vectors is not None
        if len(filled) == len(texts):
            return list(vectors)
        mean = vectors.reshape(len(texts), len(self.templates), -1).mean(axis=1)
        return list(mean / np.linalg.norm(mean, axis=-1, keepdims=True))

    def _warn(self, texts: list[str]) -> None:
        words = dict.fromkeys(word for text in texts for word in self.tokenizer.unknown_words(text))
        if words:
            warnings.warn(
                f"the model of this bundle never saw: {', '.join(words)}. Its answer for such words means nothing. "
                "For open vocabulary export a real CLIP: pip install '.[export]' in eyeshine's source folder, then "
                "eyeshine export ViT-B-16-quickgelu --pretrained openai --out bundles/b16",
                UnknownWordsWarning,
                stacklevel=5,
            )
