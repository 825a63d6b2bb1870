"""What a data set is: a stream of samples in a stable order, each read when it is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError

__all__ = ["Content", "Dataset", "Sample", "Texts", "check_folder", "digest_of", "read_json", "read_text"]

Masks = NDArray[np.bool_]
Texts = Literal["label", "labels", "captions"]
"""Which texts of an image are explained: its one class, every class that is in it, or its captions."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Content:
    """One sample, read.

    Attributes:
        image: uint8 [H, W, 3].
        texts: what is explained, P >= 1 of them.
        masks: per text, bool [K, H, W], its K objects; None where there are none.
        negatives: per text, one that is not true of the image; None where none is known.
        label: the image's class, its place in the data set's ``labels``; None without one.
        captions: sentences about the image.
    """

    image: NDArray[np.uint8]
    texts: tuple[str, ...]
    masks: tuple[Masks, ...] | None = None
    negatives: tuple[str, ...] | None = None
    label: int | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample, not read yet.

    Attributes:
        key: its name, unique in the data set and the same on every machine.
        open: reads it; raises ImageError and the like where it is broken.
    """

    key: str
    open: Callable[[], Content]


class Dataset(Protocol):
    """A data set: a frozen dataclass of its options, which check themselves.

    Attributes:
        name: on the command line and in results.
        labels: the label set; empty without one.
        gives: what its samples have beside image and texts: "mask", "contrast", "label", "captions".
    """

    name: ClassVar[str]

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def gives(self) -> frozenset[str]: ...

    def __len__(self) -> int: ...

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """The samples from number ``start`` on, always in the same order; none of them is opened."""
        ...

    def describe(self) -> dict[str, Any]:
        """What tells it from another: source, split, options, licence where it is known. No paths of a machine."""
        ...


def read_text(path: Path, what: str) -> str:
    """A file of annotations, UTF-8, with a byte order mark or without.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{what} cannot be read", got=f"{path}: {error}", allowed="a UTF-8 file") from error


def read_json(path: Path, what: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON file that holds an object with lists under ``keys``.

    Raises:
        OptionError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(read_text(path, what))
    except ValueError as error:
        raise OptionError(f"{what} is not JSON", got=f"{path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in keys):
        raise OptionError(f"{what} is of another form", got=str(path), allowed=f"an object with {', '.join(keys)}")
    return found


def check_folder(folder: Path, what: str) -> None:
    """Raise OptionError where there is no such folder."""
    if not folder.is_dir():
        raise OptionError(f"{what} is not a folder", got=str(folder))


def digest_of(path: Path) -> str:
    """Hex SHA-256 of a file of annotations, which stands for it in a description.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OptionError("a file of annotations cannot be read", got=str(error)) from error
