"""The captioner's folder: three graphs, their weights and a manifest that names the tower they belong to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle, sha256_of
from eyeshine.captioner.features import patch_features
from eyeshine.captioner.words import Words
from eyeshine.engine import CpuOptions, OrtCpuSession, Session
from eyeshine.errors import BundleError, OptionError
from eyeshine.manifest import MANIFEST, FileInfo
from eyeshine.verify import output_error

__all__ = ["GOLDEN", "GRAPHS", "SCHEMA", "CaptionerFiles", "CaptionerManifest", "default_captioner"]

SCHEMA: Final = 1
GOLDEN: Final = "golden.npz"
GRAPHS: Final = ("memory", "decode", "explain")
_CURE: Final = "ship the captioner again: python -m eyeshine_export.captioner.ship"


def default_captioner() -> Path:
    """The folder of the captioner that comes with the package."""
    return Path(__file__).parent.parent / "models" / "captioner"


@dataclass(frozen=True)
class CaptionerManifest:
    """All of the captioner's ``manifest.json``.

    Attributes:
        schema: version of this layout.
        name: of the captioner.
        tower: name of the bundle whose patches it reads; ``tower_hash``: that bundle's hash when it was trained.
        layers, heads, width: of the decoder; ``context``: longest sequence of question and answer, in words.
        grid: patches (down, across).
        words: the vocabulary, the place is the id.
        licence: of the weights.
        training: scenes, steps, minutes and options of the run.
        exporter: versions of what exported it.
        parity: graph -> output -> largest relative error against autograd.
        files: size and hash of every other file.
    """

    schema: int
    name: str
    tower: str
    tower_hash: str
    layers: int
    heads: int
    width: int
    context: int
    grid: tuple[int, int]
    words: tuple[str, ...]
    licence: str
    training: dict[str, Any]
    exporter: dict[str, str]
    parity: dict[str, dict[str, float]]
    files: dict[str, FileInfo]

    def __post_init__(self) -> None:
        numbers = (self.layers, self.heads, self.width, self.context, *self.grid)
        if self.schema != SCHEMA:
            raise BundleError("captioner of another schema version", got=self.schema, allowed=str(SCHEMA), cure=_CURE)
        if not all(isinstance(n, int) and n > 0 for n in numbers) or self.width % self.heads or len(self.grid) != 2:
            raise BundleError("captioner's manifest contradicts itself", got=numbers, cure=_CURE)
        missing = {GOLDEN, *(f"{name}.onnx" for name in GRAPHS)} - self.files.keys()
        if missing or any(Path(name).name != name for name in self.files):
            raise BundleError("captioner's manifest names other files", got=sorted(self.files), cure=_CURE)

    def write(self, folder: Path) -> None:
        """Write it into ``folder``; the same content gives the same bytes."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> CaptionerManifest:
        """Read a folder's manifest.

        Raises:
            BundleError: missing, not JSON, another schema version, missing or unknown fields.
        """
        try:
            raw = json.loads((folder / MANIFEST).read_text("utf-8"))
            files = {name: FileInfo(**info) for name, info in raw["files"].items()}
            return cls(**{**raw, "grid": tuple(raw["grid"]), "words": tuple(raw["words"]), "files": files})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                "not a captioner", got=f"{folder}: {type(error).__name__}: {error}", cure=_CURE
            ) from error


@dataclass(frozen=True)
class CaptionerFiles:
    """A captioner's folder that was opened.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        words: its vocabulary.
    """

    folder: Path
    manifest: CaptionerManifest
    words: Words

    @classmethod
    def open(cls, folder: str | Path | None = None, *, verify: bool = True) -> CaptionerFiles:
        """Open a captioner; None opens the embedded one.

        Args:
            folder: the captioner's folder.
            verify: compare the SHA-256 of every file with the manifest, beside its size.

        Raises:
            BundleError: missing, damaged or of another schema version.
        """
        path = default_captioner() if folder is None else Path(folder)
        manifest = CaptionerManifest.read(path)
        for name, info in manifest.files.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != info.bytes or (verify and sha256_of(file) != info.sha256):
                raise BundleError("a file of the captioner is missing or was changed", got=str(file), cure=_CURE)
        try:
            return cls(path, manifest, Words(manifest.words))
        except OptionError as error:
            raise BundleError(f"captioner's manifest is malformed: {error}", cure=_CURE) from error

    def session(self, graph: str, options: CpuOptions) -> OrtCpuSession:
        """Load one of ``GRAPHS``."""
        return OrtCpuSession(self.folder / f"{graph}.onnx", options)

    def golden(self) -> dict[str, NDArray[np.generic]]:
        """Golden inputs and outputs: ``in/NAME`` and ``GRAPH/OUTPUT``, and ``tower/pixels`` and ``tower/features``."""
        with np.load(self.folder / GOLDEN, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def check_tower(self, bundle: Bundle, tower: Session, tolerance: float) -> None:
        """Refuse a tower whose patches are not those that the captioner was trained on.

        A bundle that was exported again has another hash and the same features, so these decide.

        Args:
            bundle: the tower's.
            tower: runs its ``tower_graph``.
            tolerance: largest difference allowed, of the largest feature.

        Raises:
            BundleError: other features.
        """
        golden, error = self.golden(), float("inf")
        pixels = golden["tower/pixels"].astype(np.float32) / np.float32(255)
        if pixels.shape[2:] == bundle.manifest.model.image_size:
            error = output_error("features", patch_features(tower, pixels), golden["tower/features"])
        if not error <= tolerance:
            raise BundleError(
                f"the captioner does not belong to bundle {bundle.name}",
                got=f"patch features off by {error:.1e} of the largest",
                allowed=f"{tolerance:.0e}, of bundle {self.manifest.tower}",
                cure="load it with that bundle, or train and ship one for this bundle",
            )
