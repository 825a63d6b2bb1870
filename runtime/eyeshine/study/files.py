"""Files of lines that survive what ends a process: locked, written whole, and read up to the last whole line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from eyeshine.errors import OutputError

__all__ = ["MAKE_ROOM", "open_locked", "whole_lines", "write_whole"]

MAKE_ROOM: Final = "make room, then resume"


def open_locked(path: Path) -> BinaryIO:
    """A file, locked, for appending.

    Raises:
        OutputError: it cannot be written, or another process writes it.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise OutputError("records cannot be written", got=str(error), cure="name another folder") from error
    try:
        _lock(file.fileno(), path)
    except BaseException:
        file.close()
        raise
    return file


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file anew, whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there is left.
    """
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError("records cannot be written", got=str(error), cure=MAKE_ROOM) from error


def whole_lines(path: Path) -> int:
    """Bytes up to the end of the last line that is whole: ended, and JSON."""
    if not path.exists():
        return 0
    size = path.stat().st_size
    with path.open("rb") as file:
        # Records are a few kilobytes; a block of zeros after a power failure is one "line" without an end.
        back = 1 << 16
        while True:
            file.seek(max(0, size - back))
            tail = file.read()
            lines = tail.split(b"\n")
            if len(lines) > 2 or back >= size:
                break
            back *= 4
    end = size - len(lines[-1])
    if len(lines) > 1 and not _is_json(lines[-2]):
        end -= len(lines[-2]) + 1
    return end


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return
    said = OutputError("another process writes these records", got=str(path), cure="wait for it")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise said from error
    if not os.path.samestat(os.fstat(descriptor), path.stat()):  # written anew since it was opened
        raise said
