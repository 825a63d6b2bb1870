"""Training scenes: rendered once into a file of pixels and a file of facts, then read by epochs.

A store is a folder with ``pixels.npy`` (uint8 [N, 112, 112, 3], what the runtime's preprocessing would hand the model
before scaling) and ``facts.npy`` (uint8 [N, len(FACTS)], how often each fact holds). Masks are not stored: nothing
that trains the model ever sees one.
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyeshine import roads
from eyeshine.errors import OptionError

SIDE = 112
_CHUNK = 500

Pixels = npt.NDArray[np.uint8]


def check_seeds(first: int, count: int) -> None:
    """Refuse a range of seeds that reaches into the held-out ones.

    Raises:
        OptionError: a negative or empty range, or one that ends above ``roads.HELD_OUT_FROM``.
    """
    if first < 0 or count < 1 or first + count > roads.HELD_OUT_FROM:
        raise OptionError(
            "these seeds may not be trained on",
            got=f"{count} from {first}",
            allowed=f"0 to {roads.HELD_OUT_FROM - 1}",
            cure="train on lower seeds; the higher ones are for evaluation",
        )


def to_model_size(image: Pixels, side: int = SIDE) -> Pixels:
    """A square uint8 picture resized as the runtime does it: bicubic, uint8 [side, side, 3]."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def fact_row(facts: Counter[str]) -> Pixels:
    """The counts of a scene's facts in the order of ``roads.FACTS``, uint8 [len(FACTS)]."""
    return np.array([facts[fact] for fact in roads.FACTS], dtype=np.uint8)


def row_facts(row: Pixels) -> Counter[str]:
    """The facts of a stored row: the inverse of ``fact_row``."""
    return Counter({roads.FACTS[k]: int(row[k]) for k in np.flatnonzero(row)})


def _fill(folder: str, first: int, start: int, stop: int) -> int:
    pixels = np.load(Path(folder, "pixels.npy"), mmap_mode="r+")
    facts = np.load(Path(folder, "facts.npy"), mmap_mode="r+")
    done = np.load(Path(folder, "done.npy"), mmap_mode="r+")
    for k in range(start, stop):
        scene = roads.render(seed=first + k)
        pixels[k] = to_model_size(scene.image)
        facts[k] = fact_row(scene.facts)
    done[start:stop] = 1
    return stop - start


def render_store(folder: Path, *, count: int, first: int = 0, workers: int = 2) -> None:
    """Render ``count`` scenes from seed ``first`` into ``folder``; scenes that are there already are kept.

    Raises:
        OptionError: seeds that may not be trained on.
    """
    check_seeds(first, count)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"pixels.npy": (count, SIDE, SIDE, 3), "facts.npy": (count, len(roads.FACTS)), "done.npy": (count,)}
    for name, shape in shapes.items():
        if not (folder / name).exists():
            np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.uint8, shape=shape)
    done = np.load(folder / "done.npy")
    starts = [k for k in range(0, count, _CHUNK) if not done[k : k + _CHUNK].all()]
    if workers == 1:
        for k in starts:
            _fill(str(folder), first, k, min(k + _CHUNK, count))
        return
    # Not forked: a copy of a process with threads (torch, onnxruntime) can wait for ever on a lock one of them held.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_fill, str(folder), first, k, min(k + _CHUNK, count)) for k in starts]
        for job in jobs:
            job.result()


class Store:
    """Rendered scenes, read from a folder that ``render_store`` fills (or is still filling).

    Raises:
        OptionError: nothing is rendered there yet.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "done.npy").exists():
            raise OptionError("no rendered scenes", got=folder, cure="render them first (eyeshine_export.roads.data)")
        self.pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        self.facts = np.load(folder / "facts.npy", mmap_mode="r")
        self._done = np.load(folder / "done.npy", mmap_mode="r")
        self._sparse: dict[int, npt.NDArray[np.int64]] = {}

    def ready(self, *, most: int | None = None) -> npt.NDArray[np.int64]:
        """The numbers of the scenes that are rendered by now, of those with at most ``most`` objects if given."""
        if most is None:
            return np.flatnonzero(self._done)
        if most not in self._sparse:
            objects = self.facts[:, : len(roads.LABELS)].sum(axis=1)
            self._sparse[most] = np.flatnonzero(self._done & (objects <= most))
        return self._sparse[most]

    def batch(self, numbers: npt.NDArray[np.int64], rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        """Lightly augmented pixels uint8 [B, 112, 112, 3] and fact rows uint8 [B, len(FACTS)] of some scenes.

        Pictures are mirrored half of the time (no caption says left or right) and shifted by up to 8 pixels.
        """
        numbers = np.sort(numbers)
        pixels = self.pixels[numbers]
        return np.stack([_augment(picture, rng) for picture in pixels]), self.facts[numbers]


def _augment(picture: Pixels, rng: np.random.Generator) -> Pixels:
    down, right = (int(k) for k in rng.integers(-8, 9, size=2))
    rows = np.clip(np.arange(SIDE) + down, 0, SIDE - 1)
    columns = np.clip(np.arange(SIDE) + right, 0, SIDE - 1)
    if rng.random() < 0.5:
        columns = columns[::-1]
    return picture[rows[:, None], columns[None, :]]


def main() -> None:
    """Render a store from the command line."""
    parser = argparse.ArgumentParser(description="Render training scenes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    render_store(given.folder, count=given.count, first=given.first, workers=given.workers)


if __name__ == "__main__":
    main()
