"""Results on disk: one overlay per text and one archive per image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from eyeshine.errors import OutputError
from eyeshine.explanation import Explanation

__all__ = ["Names", "make_folder", "save_image_results"]


_LONGEST = 60  # characters of a stem, four bytes each at most; file systems allow 255 bytes for a name


class Names:
    """Gives every image a file stem of its own, so that two images of one file name do not overwrite each other."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def stem(self, image: str | Path) -> str:
        """A stem from the image's file name: ``photo``, then ``photo~2``, ``photo~3``; at most 60 characters."""
        base = _slug(Path(image).stem)[:_LONGEST] or "image"
        stem, count = base, 1
        while stem.lower() in self._taken:  # file systems that fold case exist
            count += 1
            stem = f"{base}~{count}"  # a slug holds no "~", so this is no other image's own name
        self._taken.add(stem.lower())
        return stem


def make_folder(folder: Path) -> Path:
    """Create the folder where it is missing.

    Raises:
        OutputError: it cannot be created, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("output folder cannot be made", got=str(error), cure="name another with --out") from error
    return folder


def save_image_results(explanation: Explanation, folder: Path, stem: str, index: int = 0) -> list[Path]:
    """Write one image's results: ``STEM.1-TEXT.png`` per text, ``STEM.heads-1.png`` where heads were chosen, ``.npz``.

    The archive holds ``maps`` [P, h, w], ``heatmaps`` [P, H, W] (each map scaled by itself, as ``heatmaps()`` does),
    ``similarities`` [P] and ``texts``. Several pictures share one scale, so that they can be compared.

    Returns:
        The files, in the order of the texts, the archive last.

    Raises:
        OutputError: a file cannot be written.
    """
    from eyeshine.render import overlay, save_png

    make_folder(folder)
    written = []
    heat = explanation.heatmap(index, explanation.picture_scale, background=explanation.background)
    for number, text in enumerate(explanation.texts):
        path = folder / f"{stem}.{number + 1}-{_slug(text)[:40] or 'text'}.png"
        save_png(overlay(explanation.images[index], heat[number]), path)
        written.append(path)
    if "heads" in explanation.details:
        written += _save_heads(explanation, folder, stem, index)
    archive = folder / f"{stem}.npz"
    try:
        np.savez_compressed(
            archive,
            allow_pickle=False,
            maps=explanation.maps[index],
            heatmaps=explanation.heatmap(index),
            similarities=explanation.similarities[index],
            texts=np.array(explanation.texts, dtype=np.str_),
        )
    except OSError as error:
        raise OutputError("archive cannot be written", got=str(error), cure="name another folder") from error
    return [*written, archive]


def _save_heads(explanation: Explanation, folder: Path, stem: str, index: int) -> list[Path]:
    """``STEM.heads-1.png`` per text: which heads its map was made of."""
    from eyeshine.concept.pictures import head_grid
    from eyeshine.render import save_png

    written = []
    for number, _ in enumerate(explanation.texts):
        path = folder / f"{stem}.heads-{number + 1}.png"
        save_png(head_grid(explanation.details["heads"], index, number, texts=explanation.texts), path)
        written.append(path)
    return written


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text).strip("-")
