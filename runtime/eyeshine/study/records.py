"""The records of a study on disk: one JSON line per sample, method and seed, and a header that says of what.

A study that was interrupted goes on where it stopped: what is in the file is not done again, and a last line that was
cut off is dropped and done anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from eyeshine.errors import OptionError, OutputError
from eyeshine.saving import make_folder
from eyeshine.study.files import MAKE_ROOM, open_locked, whole_lines, write_whole

__all__ = ["HEADER", "RECORDS", "SCORES", "Records", "Task", "drop_failed", "read_header", "read_records"]

Task = tuple[str, str, int]
"""Key of the sample, name of the method, seed."""

HEADER: Final = "study.json"
RECORDS: Final = "records.jsonl"
SCORES: Final = "scores.jsonl"
"""Records of what is scored over the whole data set, made from the others each time that a report is."""
_SYNC_S: Final = 5.0  # seconds of work that a power failure may cost; a killed process loses none


class Records:
    """The records of one study, open for appending; a context manager.

    Args:
        folder: of the study, made where it is missing.
        identity: what the results depend on; a study with another identity is not carried on.
        facts: what else is worth knowing; of the first run.
        resume: go on with what is there.

    Attributes:
        done: what is in the file.

    Raises:
        OptionError: results are there and ``resume`` is not set, or they are of another study, or damaged.
        OutputError: it cannot be written, or another process writes it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], facts: Mapping[str, Any], *, resume: bool) -> None:
        make_folder(folder)
        self._path, header = folder / RECORDS, folder / HEADER
        if header.exists() and not resume:
            raise OptionError("there is a study already", got=str(folder), cure="resume it, or name another folder")
        self._file = open_locked(self._path)
        try:
            if header.exists():  # looked at under the lock: another process may have written it
                _check_same(read_header(folder)["identity"], identity)
            elif self._path.stat().st_size:
                raise OptionError("records without a header", got=str(self._path), cure="name another folder")
            else:
                write_whole(header, [json.dumps({"identity": identity, "facts": facts}, indent=1) + "\n"])
            os.truncate(self._path, whole_lines(self._path))
            self.done = _done(folder)
        except BaseException:
            self._file.close()
            raise
        self._synced = monotonic()

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records in one write.

        Raises:
            OutputError: the disk is full, or the like.
        """
        listed = list(records)
        try:
            self._file.write("".join(map(_line, listed)).encode())
            self._file.flush()
            if monotonic() - self._synced > _SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = monotonic()
        except OSError as error:
            raise OutputError("records cannot be written", got=str(error), cure=MAKE_ROOM) from error
        self.done.update(_task(record) for record in listed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with self._file:  # closing writes what a full disk kept back
                os.fsync(self._file.fileno())
        except OSError as failed:
            if error is None:
                raise OutputError("records cannot be written", got=str(failed), cure=MAKE_ROOM) from failed


def drop_failed(folder: Path, identity: Mapping[str, Any]) -> int:
    """Take the records of failures out of a study, so that resuming it does them anew.

    Args:
        folder: of the study; nothing is done where there is none yet.
        identity: as of ``Records``.

    Returns:
        How many records there were.

    Raises:
        OptionError: the records are of another study, or damaged.
        OutputError: they cannot be written, or another process writes them.
    """
    if not (folder / HEADER).exists():
        return 0
    path = folder / RECORDS
    with open_locked(path):
        _check_same(read_header(folder)["identity"], identity)
        failed = sum("error" in record for record in read_records(folder))
        if failed:
            write_whole(path, (_line(record) for record in read_records(folder) if "error" not in record))
    return failed


def read_header(folder: Path) -> dict[str, Any]:
    """What a study is of: ``identity`` and ``facts``.

    Raises:
        OptionError: there is no study, or its header is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / HEADER).read_text("utf-8"))
        return {"identity": found["identity"], "facts": found["facts"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError("no study in this folder", got=f"{folder}: {error!r}", allowed=f"{HEADER}") from error


def read_records(folder: Path, name: str = RECORDS) -> Iterator[dict[str, Any]]:
    """The records of a study, one at a time, in the order in which they were made; a cut last line is left out.

    Raises:
        OptionError: a line that is damaged.
    """
    path = folder / name
    left = whole_lines(path)
    if not left:
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            left -= len(line)
            if left < 0:
                return
            try:
                record = json.loads(line)
                _task(record)
            except (ValueError, KeyError, TypeError) as error:
                cure = "delete the line, then resume: it is done anew"
                raise OptionError("a damaged record", got=f"line {number} of {path}: {error!r}", cure=cure) from error
            yield record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _done(folder: Path) -> set[Task]:
    done: set[Task] = set()
    for record in read_records(folder):
        if (task := _task(record)) in done:
            raise OptionError("a record is there twice", got=f"{folder / RECORDS}: {task}")
        done.add(task)
    return done


def _task(record: Mapping[str, Any]) -> Task:
    return str(record["key"]), str(record["method"]), int(record["seed"])


def _check_same(there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    plain = json.loads(json.dumps(asked))
    differing = [name for name in sorted({*there, *plain}) if there.get(name) != plain.get(name)]
    if differing:
        got = "; ".join(f"{name}: {plain.get(name)!r:.200} (there: {there.get(name)!r:.200})" for name in differing)
        raise OptionError("the study in this folder is another one", got=got, cure="name another folder")
