"""What a bundle says about itself: the schema of ``manifest.json``, written by export, read by the runtime.

``docs/bundle.md`` describes every field. A manifest of another schema version is refused, not guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, NoReturn, get_args

from eyeshine.errors import BundleError
from eyeshine.signals import SIGNALS

__all__ = [
    "MANIFEST", "SCHEMA", "FileInfo", "GraphInfo", "Manifest", "ModelInfo", "Precision", "TensorInfo", "TokenizerInfo",
]  # fmt: skip

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
Precision = Literal["fp32", "fp16", "int8"]
"""What the products over all tokens are computed in; the rest of every graph is float32."""


@dataclass(frozen=True)
class ModelInfo:
    """Which model it is and where its weights come from.

    Attributes:
        name: open_clip's name of the configuration.
        source: pretrained tag, or the checkpoint's file name and key layout.
        licence: licence of the weights, as far as the exporter knows it.
        activation: "gelu" or "quick_gelu".
        layers: blocks of the image tower, a pooler counted as the last of them.
        width, heads: of its last attention.
        embed_dim: E.
        image_size, patch_size: (height, width) in pixels.
        logit_scale: factor of the cosine in training (exp of the stored parameter).
        logit_bias: added to it, None where the model has none.
        mean, std: normalisation of RGB in 0..1; inside the graphs, here for information.
        pool: what the image's embedding is made of: "class" (token), "average" (of the patches), "latent" (query).
    """

    name: str
    source: str
    licence: str
    activation: str
    layers: int
    width: int
    heads: int
    embed_dim: int
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    logit_scale: float
    logit_bias: float | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pool: str = "class"


@dataclass(frozen=True)
class TokenizerInfo:
    """How texts become ids.

    ``clean`` names the cleaning before the tokenizer, ``unknown`` the id of unseen words, None where there are none;
    ``start`` is None where nothing stands before a text.
    """

    file: str
    context_length: int
    start: int | None
    end: int
    pad: int
    unknown: int | None
    clean: str


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a graph.

    Attributes:
        dims: numbers, and letters for dynamic axes.
        blocks: indices of the explained blocks along its K axis, ascending; None without such an axis.
    """

    dims: tuple[int | str, ...]
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GraphInfo:
    """One graph file; ``cost`` orders graphs, the runtime picks the cheapest that has the signals it needs."""

    file: str
    cost: int
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclass(frozen=True)
class FileInfo:
    """Size and hash of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All of ``manifest.json``.

    Attributes:
        schema: version of this layout.
        name: the bundle's name.
        model: which model.
        grid: patches (down, across).
        preprocess: what ``Preprocess.from_manifest`` reads.
        tokenizer: how texts become ids.
        graphs: by name: encode, image, text, and those of further groups.
        groups: the groups of graphs that it was exported with; empty in bundles from before there were any.
        weights: file with the weights of all graphs, their external data.
        golden: file with inputs and expected outputs.
        opset: ONNX operator set of the graphs.
        precision: see ``Precision``; in an int8 bundle the text graph is fp32.
        exporter: versions of what exported it.
        files: hash of every other file.
        parity: graph -> output -> largest relative error against autograd.
    """

    schema: int
    name: str
    model: ModelInfo
    grid: tuple[int, int]
    preprocess: dict[str, Any]
    tokenizer: TokenizerInfo
    graphs: dict[str, GraphInfo]
    weights: str
    golden: str
    opset: int
    precision: Precision
    exporter: dict[str, str]
    files: dict[str, FileInfo]
    parity: dict[str, dict[str, float]]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = [
            self.weights,
            self.golden,
            self.tokenizer.file,
            *(graph.file for graph in self.graphs.values()),
            *self.files,
        ]
        for name in named:
            _check_inside(name)
        for name in named:
            if name not in self.files:
                raise BundleError("manifest names a file without its hash", got=name, cure="export the bundle again")
        check_consistent(self)

    def write(self, folder: Path) -> None:
        """Write it into ``folder``; the same content gives the same bytes."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a folder's manifest.

        Raises:
            BundleError: no such folder or manifest, not JSON, another schema version, missing or malformed fields, a
                path that leaves the folder.
        """
        path = folder / MANIFEST
        if not folder.is_dir():
            raise BundleError(
                "bundle folder is missing", got=str(folder), cure="eyeshine export MODEL --out FOLDER makes one"
            )
        try:
            raw = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise BundleError(
                f"bundle has no {MANIFEST}", got=str(folder), cure="name a folder that eyeshine export wrote"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} cannot be read", got=f"{path}: {error}") from error
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if schema != SCHEMA:
            raise BundleError(
                "bundle has another schema version",
                got=repr(schema),
                allowed=str(SCHEMA),
                cure="export it again with this version of eyeshine",
            )
        return _manifest(raw, path)


def _manifest(raw: dict[str, Any], path: Path) -> Manifest:
    try:
        graphs = {
            name: GraphInfo(
                file=str(graph["file"]),
                cost=int(graph["cost"]),
                inputs={key: _tensor(value) for key, value in graph["inputs"].items()},
                outputs={key: _tensor(value) for key, value in graph["outputs"].items()},
            )
            for name, graph in raw["graphs"].items()
        }
        return Manifest(
            **{
                **_only(Manifest, raw),
                "model": ModelInfo(**_tuples(_only(ModelInfo, raw["model"]))),
                "grid": (int(raw["grid"][0]), int(raw["grid"][1])),
                "tokenizer": TokenizerInfo(**_only(TokenizerInfo, raw["tokenizer"])),
                "graphs": graphs,
                "groups": tuple(map(str, raw.get("groups", ()))),
                "files": {name: FileInfo(**_only(FileInfo, info)) for name, info in raw["files"].items()},
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(
            f"{MANIFEST} is malformed", got=f"{path}: {type(error).__name__}: {error}", cure="export the bundle again"
        ) from error


def check_consistent(manifest: Manifest) -> None:
    """Raise BundleError where parts of a manifest contradict each other, or hold values of another type."""
    if manifest.precision not in get_args(Precision):
        raise BundleError(
            "bundle has a precision that this version does not know", got=repr(manifest.precision),
            allowed=", ".join(get_args(Precision)), cure="update eyeshine, or export the bundle again",
        )  # fmt: skip
    info, size = manifest.tokenizer, manifest.model.image_size
    optional = (0 if value is None else value for value in (info.start, info.unknown))
    ids = (info.context_length, info.end, info.pad, *optional)
    if not all(isinstance(value, int) and value >= 0 for value in ids):
        _contradiction("tokenizer", info)
    if not isinstance(manifest.preprocess, dict) or list(manifest.preprocess.get("size", ())) != list(size):
        _contradiction("preprocess and model.image_size", f"{manifest.preprocess}, {size}")
    grid = tuple(length // patch for length, patch in zip(size, manifest.model.patch_size, strict=True))
    if grid != manifest.grid:
        _contradiction("grid and model", f"{manifest.grid}, {size} pixels in patches of {manifest.model.patch_size}")
    for graph in manifest.graphs.values():
        for name, tensor in {**graph.inputs, **graph.outputs}.items():
            dims = SIGNALS[name].dims if name in SIGNALS else ()
            stated = dict(zip(dims, tensor.dims, strict=False))
            if "K" in stated and len(tensor.blocks or ()) != stated["K"]:
                _contradiction(f"blocks of {name}", f"{tensor.blocks} in {graph.file} with dims {tensor.dims}")
            if stated.get("T", "T") not in ("T", 1 + grid[0] * grid[1]):
                _contradiction(f"tokens of {name}", f"{tensor.dims} in {graph.file} with grid {grid}")
            if name == "pixels" and tensor.dims[2:] not in (size, ("Y", "X")):
                _contradiction("size of pixels", f"{tensor.dims} in {graph.file} with {size}")


def _contradiction(what: str, got: object) -> NoReturn:
    raise BundleError(f"manifest contradicts itself: {what}", got=got, cure="export the bundle again")


def _tensor(raw: Mapping[str, Any]) -> TensorInfo:
    blocks = raw.get("blocks")
    return TensorInfo(tuple(raw["dims"]), None if blocks is None else tuple(int(block) for block in blocks))


def _only(kind: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a class knows; one that is missing and has no default is a KeyError, an unknown one is left for
    later versions."""
    return {field.name: raw[field.name] for field in fields(kind) if field.default is MISSING or field.name in raw}


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def _check_inside(name: str) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or not parts.parts:
        raise BundleError(
            "manifest names a path outside the bundle", got=name, allowed="relative paths inside the folder"
        )
