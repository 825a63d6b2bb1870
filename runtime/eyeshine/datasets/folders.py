"""Images in one folder per class, as ImageNet's validation set is unpacked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from eyeshine.datasets.base import Content, Sample, check_folder, digest_of, read_text
from eyeshine.errors import OptionError
from eyeshine.images import load_image

__all__ = ["ClassFolders"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class ClassFolders:
    """``root/CLASS/image.jpg``; folders and files whose names begin with a dot are left out.

    Attributes:
        root: the folder of the classes.
        names: file of ``FOLDER NAME`` lines (ImageNet's ``LOC_synset_mapping.txt`` is one), of which the part before
            the first comma is taken; by default the folders' own names, underscores as spaces.
    """

    root: Path
    names: Path | None = None

    name: ClassVar[str] = "folders"
    gives: ClassVar[frozenset[str]] = frozenset({"label"})

    def __post_init__(self) -> None:
        check_folder(self.root, "the folder of classes")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the folders.

        Raises:
            OptionError: a folder without a name, or two of one name: neither could be told from the other.
        """
        folders = [folder.name for folder in self._folders]
        if self.names is None:
            found = [folder.replace("_", " ") for folder in folders]
        else:
            pairs = (line.split(maxsplit=1) for line in read_text(self.names, "the file of names").splitlines())
            known = {pair[0]: pair[1].partition(",")[0].strip() for pair in pairs if len(pair) == 2}
            if missing := [folder for folder in folders if not known.get(folder)]:
                raise OptionError("folders without a name in the file of names", got=", ".join(missing[:5]))
            found = [known[folder] for folder in folders]
        if twice := sorted({label for label in found if found.count(label) > 1}):
            cure = "give each a name of its own (--names)"
            raise OptionError("two classes of one name", got=", ".join(twice[:5]), cure=cure)
        return tuple(found)

    def __len__(self) -> int:
        return len(self._files)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """One image each, class by class; its key is CLASS/FILE."""
        labels = self.labels
        for place, path in self._files[start:]:
            yield Sample(f"{path.parent.name}/{path.name}", partial(self._open, path, place, labels[place]))

    def describe(self) -> dict[str, Any]:
        """The files by a digest over their names, the names of the classes by their file's."""
        keys = "\n".join(f"{path.parent.name}/{path.name}" for _, path in self._files)
        named = {} if self.names is None else {"names_sha256": digest_of(self.names)}
        digest = hashlib.sha256(keys.encode()).hexdigest()
        return {"dataset": self.name, "source": self.root.name, "files_sha256": digest, "images": len(self), **named}

    @cached_property
    def _folders(self) -> list[Path]:
        return sorted(path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))

    @cached_property
    def _files(self) -> list[tuple[int, Path]]:
        found = [
            (place, path)
            for place, folder in enumerate(self._folders)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        ]
        if not found:
            raise OptionError("no image in any class folder", got=str(self.root), allowed="root/CLASS/image.jpg")
        return found

    @staticmethod
    def _open(path: Path, place: int, label: str) -> Content:
        return Content(image=load_image(path), texts=(label,), label=place)
