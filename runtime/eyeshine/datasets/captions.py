"""Images with captions: Conceptual Captions' table, and Karpathy's split of COCO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from eyeshine.datasets.base import Content, Sample, check_folder, digest_of, read_json
from eyeshine.errors import ImageError, OptionError
from eyeshine.images import load_image

__all__ = ["Captions", "Karpathy"]

_COLUMNS = frozenset({"path", "file", "filename", "file_name", "filepath", "image", "image_path", "url"})


def _content(path: Path, captions: tuple[str, ...]) -> Content:
    return Content(image=load_image(path), texts=captions, captions=captions)


@dataclass(frozen=True)
class Captions:
    """A table of captions and files, ``caption TAB path``, in the shape of Conceptual Captions.

    Attributes:
        table: the file, UTF-8, one pair per line. A line of column names is refused, as it would be a sample whose
            image is missing; so is a URL: nothing is downloaded.
        images: what its paths are relative to; by default the table's folder.
    """

    table: Path
    images: Path | None = None

    name: ClassVar[str] = "captions"
    labels: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[frozenset[str]] = frozenset({"captions"})

    def __post_init__(self) -> None:
        if self.images is not None:
            check_folder(self.images, "the folder of images")
        if not self.table.is_file():
            raise OptionError("no such table of captions", got=str(self.table), allowed="a file, caption TAB path")

    def __len__(self) -> int:
        return self._count

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """One row each; its key is its line number and path."""
        root = self.images or self.table.parent
        for number, caption, path in islice(self._rows(), start, self._count):
            yield Sample(f"{number}:{path}", partial(_content, root / path, (caption,)))

    def describe(self) -> dict[str, Any]:
        """The table by its name and SHA-256."""
        return {"dataset": self.name, "source": self.table.name, "sha256": digest_of(self.table), "rows": self._count}

    @cached_property
    def _count(self) -> int:
        """Reads the whole table once, so that a row that cannot be used is found before the first is explained."""
        return sum(1 for _ in self._rows())

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        try:
            with self.table.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, *self._row(number, line.rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError("the table of captions cannot be read", got=f"{self.table}: {error}") from error

    def _row(self, number: int, line: str) -> tuple[str, str]:
        caption, tab, path = line.partition("\t")
        if not tab or not caption.strip() or not path.strip() or "\t" in path:
            raise OptionError(
                f"line {number} of the captions is not caption TAB path", got=repr(line[:80]), allowed="two columns"
            )
        if number == 1 and path.strip().lower() in _COLUMNS:
            raise OptionError("the captions begin with column names", got=repr(line[:80]), cure="delete the first line")
        if "://" in path:
            cure = "download the images first, and write their paths"
            raise OptionError(f"line {number} of the captions names a URL", got=path[:80], allowed="files", cure=cure)
        return caption.strip(), path.strip()


@dataclass(frozen=True)
class Karpathy:
    """Karpathy's ``dataset_coco.json`` with COCO's images.

    Attributes:
        annotations: the JSON file.
        images: folder that holds ``filepath/filename`` (val2014/COCO_val2014_….jpg), or the files themselves.
        split: as the file says: train, restval, val or test.
    """

    annotations: Path
    images: Path
    split: str = "test"

    name: ClassVar[str] = "karpathy"
    labels: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[frozenset[str]] = frozenset({"captions"})

    def __post_init__(self) -> None:
        check_folder(self.images, "the folder of images")

    def __len__(self) -> int:
        return len(self._images)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """One image with its captions each; its key is its file name."""
        for image in self._images[start:]:
            yield Sample(image["filename"], partial(self._open, image))

    def describe(self) -> dict[str, Any]:
        """The file by its name and SHA-256, and the split."""
        digest = digest_of(self.annotations)
        return {"dataset": self.name, "source": self.annotations.name, "sha256": digest, "split": self.split}

    @cached_property
    def _images(self) -> list[dict[str, Any]]:
        found = read_json(self.annotations, "Karpathy's file", ("images",))["images"]
        try:
            chosen = [
                {
                    "filename": image["filename"],
                    "filepath": image.get("filepath", ""),
                    "captions": tuple(" ".join(str(sentence["raw"]).split()) for sentence in image["sentences"]),
                }
                for image in found
                if image["split"] == self.split
            ]
        except (KeyError, TypeError) as error:
            allowed = "images with filename, split and sentences, which have raw"
            raise OptionError("Karpathy's file is of another form", got=repr(error), allowed=allowed) from error
        if not chosen:
            splits = ", ".join(sorted({str(image["split"]) for image in found}))
            raise OptionError("no image of that split", got=repr(self.split), allowed=splits or "none")
        return chosen

    def _open(self, image: dict[str, Any]) -> Content:
        places = self.images / image["filepath"] / image["filename"], self.images / image["filename"]
        captions = image["captions"]
        if not all(captions) or not captions:
            raise ImageError("an image without captions, or with a blank one", got=image["filename"])
        return _content(next((path for path in places if path.is_file()), places[0]), captions)
