"""An opened bundle: the folder, its manifest, and files whose bytes are what the manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import BundleError, SignalError
from eyeshine.manifest import GraphInfo, Manifest, TensorInfo
from eyeshine.signals import SIGNALS, group_of

__all__ = ["HEADS", "Bundle", "default_bundle", "sha256_of"]

HEADS: Final = "heads.npy"
"""What head selection projects by; of as many blocks as a graph yields the class token's attention of."""


def default_bundle() -> Path:
    """The folder of the bundle that comes with the package."""
    return Path(__file__).parent / "models" / "roads"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_OWN_SIZE: Final = "resize images to the model's own size"
ANY_SIZE: Final = f"{_OWN_SIZE}, or: eyeshine export MODEL --signals sizes --out FOLDER"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened, and verified unless that was declined.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path | None = None, *, verify: bool = True) -> Bundle:
        """Open a bundle; None opens the embedded one.

        Args:
            folder: the bundle's folder.
            verify: compare the size and SHA-256 of every file with the manifest (0.4 s per GB where the CPU has
                SHA instructions).

        Raises:
            BundleError: missing or damaged, see ``Manifest.read``; a file that is missing, changed, or lies outside.
        """
        path = default_bundle() if folder is None else Path(folder)
        bundle = cls(path, Manifest.read(path))
        for name in bundle.manifest.files:
            bundle.check(name, content=verify)
        return bundle

    def check(self, name: str, *, content: bool = True) -> None:
        """Raise BundleError unless the file is inside the folder and has the manifest's size (and hash)."""
        info, path = self.manifest.files[name], self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BundleError("a bundle file is a link that leaves the folder", got=f"{name} -> {path.resolve()}")
        if not path.is_file():
            raise BundleError("a bundle file is missing", got=str(path), cure="export the bundle again")
        size = path.stat().st_size
        if size != info.bytes:
            raise BundleError(
                "a bundle file was changed: its size differs from the manifest",
                got=f"{name} with {size} bytes",
                allowed=f"{info.bytes} bytes",
                cure="export the bundle again, or copy it again",
            )
        if content and sha256_of(path) != info.sha256:
            raise BundleError(
                "a bundle file was changed: its SHA-256 differs from the manifest",
                got=name,
                allowed=f"sha256 {info.sha256}",
                cure="export the bundle again, or copy it again",
            )

    @property
    def name(self) -> str:
        return self.manifest.name

    @cached_property
    def hash(self) -> str:
        """One hash for the whole bundle: SHA-256 over the names and hashes of its files."""
        digest = hashlib.sha256()
        for name in sorted(self.manifest.files):
            digest.update(f"{name} {self.manifest.files[name].sha256}\n".encode())
        return digest.hexdigest()

    def graph(self, name: str) -> GraphInfo:
        """A graph by its name.

        Raises:
            SignalError: the bundle has none; the message names the export command.
        """
        if name not in self.manifest.graphs:
            group = group_of(name)
            wanted = {"plain": "", "deep": " --layers K"}.get(group, f" --signals {group or 'GROUP'}")
            raise SignalError(
                f"bundle {self.name} has no graph {name!r}",
                allowed=", ".join(sorted(self.manifest.graphs)),
                cure=f"eyeshine export MODEL{wanted} --out FOLDER",
            )
        return self.manifest.graphs[name]

    def any_size(self, graph: str) -> bool:
        """Whether a graph takes images of any size in whole patches."""
        pixels = self.graph(graph).inputs.get("pixels")
        return pixels is not None and isinstance(pixels.dims[2], str)

    def cheapest(self, signals: frozenset[str], blocks: int = 1, *, any_size: bool = False) -> str:
        """Name of the cheapest graph from pixels that yields all ``signals``, for the last ``blocks`` blocks.

        Args:
            signals: names.
            blocks: K.
            any_size: of the graphs for images of any size in whole patches; of those for the model's own otherwise.

        Raises:
            SignalError: no graph of this bundle has them; the message names the export command.
        """
        fitting = [
            (graph.cost, name)
            for name, graph in self.manifest.graphs.items()
            if "pixels" in graph.inputs
            and self.any_size(name) == any_size
            and graph.inputs.keys() <= {"pixels", "text", "target"}
            and all(signal in graph.outputs and _enough(graph.outputs[signal], signal, blocks) for signal in signals)
        ]
        if not fitting:
            raise SignalError(
                f"bundle {self.name} does not yield the signals that were asked for",
                got=f"{', '.join(sorted(signals))} of {blocks} block(s)" + (" at any size" if any_size else ""),
                cure=_any_size_with(signals, blocks) if any_size else _export_with(signals, blocks),
            )
        return min(fitting)[1]

    def head_projection(self, blocks: int) -> NDArray[np.float32]:
        """[K, D, E] of the last ``blocks`` blocks: what each channel of the heads' outputs adds to the embedding.

        Raises:
            SignalError: the bundle has none, or of fewer blocks.
        """
        path = self.folder / HEADS
        found = np.load(path, mmap_mode="r", allow_pickle=False) if HEADS in self.manifest.files else np.empty(0)
        if len(found) < blocks:
            raise SignalError(
                f"bundle {self.name} cannot score the heads of {blocks} block(s)", got=f"those of {len(found)}",
                cure=_export_with((), blocks),
            )  # fmt: skip
        return np.ascontiguousarray(found[-blocks:])

    def golden(self, graph: str | None = None) -> dict[str, NDArray[np.generic]]:
        """Golden inputs and outputs: ``in/NAME`` and ``GRAPH/OUTPUT``.

        Args:
            graph: only what it is checked with: its inputs, its outputs and those of ``image``, which deeper graphs
                share. A bundle with every group holds ten times that (10 ms to read, 1 ms).
        """
        inputs = frozenset() if graph is None else {f"in/{name}" for name in self.graph(graph).inputs}
        with np.load(self.folder / self.manifest.golden, allow_pickle=False) as archive:
            return {
                key: archive[key]
                for key in archive.files
                if graph is None or key in inputs or key.startswith((f"{graph}/", "image/"))
            }


def _enough(output: TensorInfo, signal: str, blocks: int) -> bool:
    """Whether an output of a graph has so many blocks; no more than them where that would be another model's."""
    found = len(output.blocks or range(blocks))
    return found == blocks if signal in SIGNALS and SIGNALS[signal].exact else found >= blocks


def _any_size_with(signals: Iterable[str], blocks: int) -> str:
    """The same at any size, where there are the last block's signals alone: the model's own, or with one head."""
    groups = {SIGNALS[name].group for name in signals if name in SIGNALS}
    return ANY_SIZE if blocks == 1 and groups <= {"", "single_head"} else _OWN_SIZE


def _export_with(signals: Iterable[str], blocks: int) -> str:
    """The export command that writes a bundle with these signals of so many blocks."""
    groups = sorted({SIGNALS[name].group for name in signals if name in SIGNALS} - {""})
    layers = f" --layers {blocks}" if blocks > 1 else ""
    return f"eyeshine export MODEL{layers}{' --signals ' + ','.join(groups) if groups else ''} --out FOLDER"
