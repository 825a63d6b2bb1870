"""Where the weights of an ONNX graph lie: read from the protobuf itself, so that the runtime needs no onnx.

Only what holds weights is looked at: model -> graph (field 7) -> initializer (5) -> name, dims, type and place of the
values. Field numbers are those of onnx.proto; anything else is stepped over. Values are found, not read: they can then
be written over in place, because another draw of a tensor has as many bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import BundleError

__all__ = ["Initialiser", "read_initialisers"]

_GRAPH, _INITIALISER = 7, 5
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _KEY, _VALUE = 1, 2, 8, 9, 13, 1, 2
_TYPES: Final[dict[int, np.dtype[Any]]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


@dataclass(frozen=True)
class Initialiser:
    """The place of one floating-point tensor.

    Attributes:
        name: in the graph.
        path: the file that holds its values.
        offset: of the first byte.
        shape: of the tensor.
        dtype: of a value.
    """

    name: str
    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> NDArray[Any]:
        """The values."""
        count = int(np.prod(self.shape))
        return np.fromfile(self.path, self.dtype, count, offset=self.offset).reshape(self.shape)


def read_initialisers(path: Path) -> list[Initialiser]:
    """The floating-point weights of a graph, in their order; of integers there is nothing to draw.

    Raises:
        BundleError: not an ONNX graph, or weights that are not stored as raw bytes.
    """
    found = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for number, start, end in _fields(data, 0, len(data)):
                if number == _GRAPH:
                    parts = _fields(data, start, end)
                    found += [_tensor(data, path, a, b) for number, a, b in parts if number == _INITIALISER]
        except (IndexError, ValueError, KeyError) as error:
            cure = "export the bundle again"
            raise BundleError("graph cannot be read", got=f"{path.name}: {error!r}", cure=cure) from error
    return [each for each in found if each is not None]


def _tensor(data: mmap.mmap, path: Path, start: int, end: int) -> Initialiser | None:
    name, kind, raw = "", 0, None
    dims: list[int] = []
    external: dict[str, str] = {}
    for number, a, b in _fields(data, start, end):
        if number == _DIMS:
            dims += _integers(data, a, b)
        elif number == _TYPE:
            (kind,) = _integers(data, a, b)
        elif number == _NAME:
            name = data[a:b].decode()
        elif number == _RAW:
            raw = a
        elif number == _EXTERNAL:
            pair = {key: data[i:j].decode() for key, i, j in _fields(data, a, b)}
            external[pair[_KEY]] = pair[_VALUE]
    if kind not in _TYPES:
        return None
    if "location" in external:
        return Initialiser(name, path.parent / external["location"], int(external["offset"]), tuple(dims), _TYPES[kind])
    if raw is None:
        raise ValueError(f"weights of {name} are not raw bytes")
    return Initialiser(name, path, raw, tuple(dims), _TYPES[kind])


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte, end) of the value of every field of a message."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, stop = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            stop = at + length
        elif kind in (1, 5):
            stop = at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"field of an unknown kind {kind}")
        if stop > end:
            raise ValueError("a field that ends behind its message")
        yield key >> 3, at, stop
        at = stop


def _integers(data: mmap.mmap, start: int, end: int) -> list[int]:
    """Whole numbers, one or packed."""
    found, at = [], start
    while at < end:
        value, at = _varint(data, at)
        found.append(value)
    return found


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
