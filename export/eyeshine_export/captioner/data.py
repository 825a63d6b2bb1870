"""Scenes for the captioner: rendered and seen by the tower once, then read by every epoch.

A store is a folder with ``features.npy`` (float16 [S, N, 2D], see ``eyeshine.captioner.features``), ``done.npy`` and
``truths-K.json`` (what is true of each scene of a chunk, see ``questions.Truth``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyeshine import Bundle, roads
from eyeshine.captioner.features import patch_features, tower_graph
from eyeshine.engine import CpuOptions, Session, open_session
from eyeshine.errors import OptionError
from eyeshine.preprocess import Preprocess
from eyeshine_export.captioner.questions import Truth
from eyeshine_export.roads.data import check_seeds

__all__ = ["Store", "fill_store", "seen_by_tower"]

_CHUNK = 100


def seen_by_tower(
    session: Session, preprocess: Preprocess, seeds: range
) -> tuple[NDArray[np.float32], list[Truth], list[roads.Scene]]:
    """Features [S, N, 2D] and truths of the scenes of these seeds, and the scenes."""
    scenes = [roads.render(seed=seed) for seed in seeds]
    pixels = np.stack([preprocess.prepare(scene.image).pixels for scene in scenes])
    return patch_features(session, pixels), [Truth.of(scene) for scene in scenes], scenes


def fill_store(folder: Path, *, count: int, first: int = 0) -> None:
    """Add the scenes of ``count`` seeds from ``first`` on; what is there already is kept.

    Raises:
        OptionError: seeds that may not be trained on.
    """
    check_seeds(first, count)
    bundle = Bundle.open()
    info = bundle.manifest
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, info.grid[0] * info.grid[1], 2 * info.model.width)
    for name, dims, dtype in (("features", shape, np.float16), ("done", (count,), np.bool_)):
        if not (folder / f"{name}.npy").exists():
            np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=dims)
    features = np.load(folder / "features.npy", mmap_mode="r+")
    done = np.load(folder / "done.npy", mmap_mode="r+")
    session = open_session(bundle, tower_graph(bundle), CpuOptions(threads=1))
    preprocess = Preprocess.from_manifest(info.preprocess)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        if done[start:stop].all():
            continue
        features[start:stop], truths, _ = seen_by_tower(session, preprocess, range(first + start, first + stop))
        records = [truth.as_record() for truth in truths]
        (folder / f"truths-{start}.json").write_text(json.dumps(records), encoding="utf-8")
        done[start:stop] = True
        done.flush()


class Store:
    """The scenes of a store, which may still be filling.

    Raises:
        OptionError: nothing is there yet.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "done.npy").exists():
            raise OptionError("no scenes", got=folder, cure=f"python -m {__name__} {folder} --count 24000")
        self.folder = folder
        self.features = np.load(folder / "features.npy", mmap_mode="r")
        self._done = np.load(folder / "done.npy", mmap_mode="r")
        self._truths: dict[int, list[Truth]] = {}

    def ready(self) -> int:
        """How many scenes can be read; they are filled in order."""
        return int(self._done.sum())

    def truth(self, number: int) -> Truth:
        """What is true of a scene."""
        start = number // _CHUNK * _CHUNK
        if start not in self._truths:
            records = json.loads((self.folder / f"truths-{start}.json").read_text("utf-8"))
            self._truths[start] = [Truth.from_record(record) for record in records]
        return self._truths[start][number - start]


def main() -> None:
    """Fill a store from the command line."""
    parser = argparse.ArgumentParser(description="Render scenes and run the tower on them.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    fill_store(given.folder, count=given.count, first=given.first)


if __name__ == "__main__":
    main()
