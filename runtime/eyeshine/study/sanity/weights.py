"""A copy of a bundle whose weights are drawn anew, step after step.

The weights are written over in the files of the copy, which keeps its graphs as they are: no torch, no onnx, no
exporter, and no minutes per step. All graphs of a bundle name a weight alike, so a draw that depends on the name alone
is the same in each of them, wherever they keep it (large tensors share one file, small ones lie inside the graphs).
The manifest of the copy gets the new hashes; its golden values are of the original, so it is opened without the gate.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import HEADS, Bundle, sha256_of
from eyeshine.checks import check_choice
from eyeshine.errors import BundleError, OptionError
from eyeshine.manifest import FileInfo
from eyeshine.saving import make_folder
from eyeshine.study.sanity.initialisers import Initialiser, read_initialisers

__all__ = ["Draw", "WeightCopy", "head_projection"]

Draw = Literal["normal", "permutation"]

_BLOCK = re.compile(r"visual\.(\d+)\.")
_HEAD = ("visual.final_norm.", "visual.projection", "visual.pool.")
_TOWER = "visual."


class WeightCopy:
    """A bundle in a folder of its own, whose image tower can be randomised. The text tower stays as it is.

    Args:
        bundle: the original, fp32 or fp16.
        folder: where the copy goes; it must be empty, or not be there.

    Attributes:
        steps: names of what is randomised at once, from the top: "head" (last LayerNorm and projection, or pooler),
            "block N" from the last to 0, "embeddings" (patches, class token, positions, first LayerNorm).

    Raises:
        OptionError: a bundle with 8-bit weights, whose scales belong to them; a folder that holds something.
        BundleError: its graphs cannot be read.
    """

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        if bundle.manifest.precision == "int8":
            cure = "export the bundle in fp32"
            raise OptionError("weights of 8 bits are not drawn anew", got=bundle.name, allowed="fp32, fp16", cure=cure)
        make_folder(folder)
        if any(folder.iterdir()):
            raise OptionError("the copy's folder holds something", got=str(folder), cure="name another")
        self._folder, self._manifest = folder, bundle.manifest
        for name in bundle.manifest.files:
            shutil.copyfile(bundle.folder / name, folder / name)  # contents alone: an installed file may be read-only
        found = [each for graph in bundle.manifest.graphs.values() for each in read_initialisers(folder / graph.file)]
        self._places: dict[str, dict[tuple[Path, int], Initialiser]] = defaultdict(dict)
        for each in found:
            if each.name.startswith(_TOWER):
                self._places[each.name][each.path, each.offset] = each
        blocks = sorted({int(at[1]) for name in self._places if (at := _BLOCK.match(name))}, reverse=True)
        if not blocks:
            raise BundleError("no weights of an image tower", got=bundle.name, cure="export the bundle again")
        self.steps = ("head", *(f"block {block}" for block in blocks), "embeddings")
        self._write_manifest(set())

    def randomise(self, step: str, seed: int, draw: Draw = "normal") -> None:
        """Draw the weights of a step anew; what was drawn before stays. No session of the copy may be open.

        Args:
            step: one of ``steps``.
            seed: of the draw.
            draw: "normal": each tensor from a normal distribution with its own mean and standard deviation;
                "permutation": its own values in another order. LayerNorm scales lie around 1, and a mean of 0 would be
                another network, not another draw; matrices have means near 0 by themselves.

        Raises:
            OptionError: an unknown step or draw.
        """
        check_choice("step", step, self.steps)
        check_choice("draw", draw, get_args(Draw))
        changed = {HEADS} if HEADS in self._manifest.files else set()
        for name in self._named(step):
            places = list(self._places[name].values())
            # The bytes of a name decide, not the order of graphs: so every graph gets the same values.
            drawn = _drawn(places[0].read(), np.random.default_rng((seed, zlib.crc32(name.encode()))), draw)
            for place in places:
                with place.path.open("r+b") as file:
                    file.seek(place.offset)
                    file.write(drawn.astype(place.dtype).tobytes())
                changed.add(place.path.name)
        self._write_manifest(changed)

    def open(self) -> Bundle:
        """The copy as it is now; its golden values are the original's."""
        return Bundle.open(self._folder, verify=False)

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        """The image tower's weights as they are now, by name."""
        return {name: next(iter(places.values())).read() for name, places in self._places.items()}

    def _named(self, step: str) -> list[str]:
        return [name for name in self._places if _step_of(name) == step]

    def _write_manifest(self, changed: set[str]) -> None:
        """New hashes: what an engine built for the weights before is then not taken for these."""
        if HEADS in changed:
            before = np.load(self._folder / HEADS, allow_pickle=False)
            np.save(self._folder / HEADS, head_projection(self.arrays(), len(before)), allow_pickle=False)
        files = {name: self._info(name) if name in changed else info for name, info in self._manifest.files.items()}
        self._manifest = replace(self._manifest, files=files)
        self._manifest.write(self._folder)

    def _info(self, name: str) -> FileInfo:
        path = self._folder / name
        return FileInfo(path.stat().st_size, sha256_of(path))


def head_projection(weights: Mapping[str, NDArray[np.floating]], blocks: int) -> NDArray[np.float32]:
    """What each channel of the heads' outputs adds to the embedding, [K, D, E], from the graphs' weights.

    The exporter writes this constant beside the graphs, from the checkpoint; here it follows the weights drawn.
    Output projection, the mean that the last LayerNorm takes away, its scale, the projection; of a pooler without a
    projection behind it, its output projection alone.
    """
    depth = 1 + max(int(at[1]) for name in weights if (at := _BLOCK.match(name)))
    pooled = "visual.pool.out.weight" in weights
    names = ["visual.pool"] if pooled else [f"visual.{block}" for block in range(depth - blocks, depth)]
    out = [weights[f"{name}.out.weight"] for name in names]
    if pooled and "visual.projection" not in weights:
        return np.stack([each.T for each in out]).astype(np.float32)
    onto = weights["visual.final_norm.weight"].reshape(-1, 1) * weights["visual.projection"]
    return np.stack([(each - each.mean(axis=0)).T @ onto for each in out]).astype(np.float32)


def _step_of(name: str) -> str:
    if name.startswith(_HEAD):
        return "head"
    block = _BLOCK.match(name)
    return f"block {block[1]}" if block else "embeddings"


def _drawn(values: NDArray[np.floating], rng: np.random.Generator, draw: Draw) -> NDArray[np.floating]:
    if draw == "permutation":
        shuffled: NDArray[np.floating] = rng.permutation(values.reshape(-1)).reshape(values.shape)
        return shuffled
    exact = values.astype(np.float64)
    return rng.normal(exact.mean(), exact.std(), values.shape)
