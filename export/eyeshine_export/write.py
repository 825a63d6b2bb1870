"""A source becomes a bundle: graphs, one weights file, tokenizer, golden values, manifest.

Everything is written into a temporary folder beside the target and renamed at the end, so that an interrupted export
leaves nothing that loads.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from eyeshine.bundle import HEADS, sha256_of
from eyeshine.errors import ExportError, OptionError, OutputError, UnsupportedError
from eyeshine.manifest import (
    MANIFEST,
    SCHEMA,
    FileInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    Precision,
    TensorInfo,
    TokenizerInfo,
)
from eyeshine.signals import SIGNALS
from eyeshine_export.config import ClipConfig
from eyeshine_export.golden import golden_values
from eyeshine_export.graph.ops import OPSET, Form
from eyeshine_export.graph.weights import text_weights, vision_weights
from eyeshine_export.groups import GROUPS, Built, Group, Parts, choose_groups
from eyeshine_export.heads import head_projection
from eyeshine_export.oracle import Oracle
from eyeshine_export.parity import check_graphs
from eyeshine_export.source import Source
from eyeshine_export.tokenizer import clip_tokenizer_json, clip_tokenizer_settings

__all__ = ["ExportOptions", "add_file", "check_target", "export_bundle", "write_graphs"]

WEIGHTS, TOKENIZER, GOLDEN = "weights.bin", "tokenizer.json", "golden.npz"
_PAGE = 4096  # the runtime maps the weights file; tensors start on pages
_INLINE_BYTES = 1024
_LAYERS = 4  # what Concept Attribution reads


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is written.

    Attributes:
        layers: explained blocks of ``deep.onnx`` and of what else explains several; None for 4, and no ``deep.onnx``
            unless ``signals`` says so.
        signals: names of further groups of graphs (``groups.GROUPS``), or "all".
        name: the bundle's name; the folder's name by default.
        force: replace an existing bundle.
        opset: ONNX operator set, 20 or 23. TensorRT reads 20 from version 10.0 on, 23 from 10.14 on.
        precision: "fp32", "fp16" (for GPUs) or "int8" (for CPUs).
    """

    layers: int | None = None
    name: str | None = None
    force: bool = False
    opset: int = OPSET
    precision: Precision = "fp32"
    signals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.form()
        choose_groups(self.signals)
        if self.layers is not None and self.layers < 2:
            raise OptionError(
                "layers of the deep graph", got=self.layers, allowed="2 and more; image.onnx explains the last block"
            )

    def form(self) -> Form:
        """How the graphs are written down."""
        return Form(self.opset, self.precision)

    def groups(self) -> tuple[Group, ...]:
        """The groups of graphs that are written."""
        return choose_groups((*self.signals, *(() if self.layers is None else ("deep",))))


def export_bundle(source: Source, out: Path, options: ExportOptions | None = None) -> Manifest:
    """Write a bundle into the folder ``out`` and return its manifest.

    Raises:
        ExportError: weights and configuration disagree, or a graph disagrees with autograd.
        OutputError: ``out`` exists and is not replaced, or cannot be written.
    """
    options = options or ExportOptions()
    if options.layers is not None and options.layers > source.config.vision.layers:
        raise OptionError(
            "more explained blocks than the tower has", got=options.layers, allowed=str(source.config.vision.layers)
        )
    out = out.resolve()
    check_target(out, options.force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise OutputError("bundle folder cannot be written", got=str(error)) from error
    try:
        manifest = _write_all(source, partial, options, options.name or out.name)
        partial.chmod(0o755)
        _replace(partial, out)
    except OSError as error:
        raise OutputError("bundle cannot be written", got=str(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def add_file(folder: Path, name: str, text: str) -> Manifest:
    """Add a text file to a finished bundle (a model card) and its hash to the manifest; return the manifest."""
    manifest = Manifest.read(folder)
    (folder / name).write_text(text, "utf-8")
    info = FileInfo((folder / name).stat().st_size, sha256_of(folder / name))
    manifest = replace(manifest, files={**manifest.files, name: info})
    manifest.write(folder)
    return manifest


def _replace(partial: Path, out: Path) -> None:
    """Rename ``partial`` to ``out``; a bundle that was there is kept until the new one stands in its place."""
    old = partial.with_name(f"{partial.name}.old")
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_target(out: Path, force: bool) -> None:
    """Raise OutputError where ``out`` exists and may not be replaced: no force, or files that are no bundle's."""
    if not out.exists():
        return
    if not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("target exists and is not a bundle", got=str(out), cure="name another folder")
    if not (out / MANIFEST).is_file():
        return
    if not force:
        raise OutputError("bundle exists", got=str(out), cure="pass --force to replace it, or name another folder")
    try:
        raw = json.loads((out / MANIFEST).read_text("utf-8"))
        ours = {MANIFEST, *raw["files"]} if {"schema", "graphs"} <= raw.keys() else set()
    except (ValueError, KeyError, TypeError, AttributeError):
        ours = set()
    foreign = sorted({path.name for path in out.iterdir()} - ours)
    if foreign:
        raise OutputError(
            "target holds files that are no bundle's and is not replaced", got=", ".join(foreign[:5]),
            cure="move them away, or name another folder",
        )  # fmt: skip


def _write_all(source: Source, folder: Path, options: ExportOptions, name: str) -> Manifest:
    built, heads = _build(source, options)
    graphs = {name: graph for group in built.values() for name, graph in group.items()}
    write_graphs({name: graph.model for name, graph in graphs.items()}, folder)
    np.save(folder / HEADS, heads, allow_pickle=False)
    tokenizer = _write_tokenizer(source, folder)
    oracle = Oracle.of(source)
    parity = check_graphs(folder, built, oracle, options.precision)
    np.savez(folder / GOLDEN, allow_pickle=False, **golden_values(oracle, built))
    config = source.config
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        model=_model_info(source),
        grid=config.vision.grid,
        preprocess=source.preprocess.as_manifest() if source.preprocess else {},
        tokenizer=tokenizer,
        graphs={name: _graph_info(name, graph) for name, graph in graphs.items()},
        groups=tuple(group.name for group in built),
        weights=WEIGHTS,
        golden=GOLDEN,
        opset=options.opset,
        precision=options.precision,
        exporter=_versions(),
        files={p.name: FileInfo(p.stat().st_size, sha256_of(p)) for p in sorted(folder.iterdir())},
        parity=parity,
    )
    manifest.write(folder)
    return manifest


def _build(source: Source, options: ExportOptions) -> tuple[dict[Group, dict[str, Built]], NDArray[np.float32]]:
    """The graphs of every group, and what the explained heads are projected by."""
    config, groups = source.config, _fitting(options.groups(), source.config, options)
    state = {name: tensor.numpy() for name, tensor in source.state.items()}
    normalisation = source.normalisation
    parts = Parts(
        config,
        vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std),
        text_weights(state, config.text, config.embed_dim),
        options.form(),
        options.layers or min(_LAYERS, config.vision.layers),
    )
    built = {group: group.build(parts) for group in groups}
    # Heads are scored wherever their attention is there: in "queries" as well, which needs no "deep".
    scored = max(
        len(graph.blocks)
        for graphs in built.values()
        for graph in graphs.values()
        if any(output.name == "class_attention" for output in graph.model.graph.outputs)
    )
    return built, head_projection(parts.vision, scored)


def _fitting(groups: Sequence[Group], config: ClipConfig, options: ExportOptions) -> list[Group]:
    """The groups that are built for such towers; one that was asked for by name is refused where it is not."""
    for group in groups:
        if not group.fits(config) and (group.name in options.signals or (group.name == "deep" and options.layers)):
            raise UnsupportedError(
                f"{config.name}: the group {group.name} is not built for such towers",
                got=f"image pool {config.vision.pool}, text pool {config.text.pool}",
                allowed=", ".join(group.name for group in GROUPS.values() if group.fits(config)),
            )
    return [group for group in groups if group.fits(config)]


def write_graphs(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write NAME.onnx for every model, and one weights file that they share."""
    placed: dict[str, ir.ExternalTensor] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _INLINE_BYTES or name.startswith("constant_"):
                    continue
                if name not in placed:
                    file.write(b"\0" * (-file.tell() % _PAGE))
                    offset = file.tell()
                    file.write(tensor.numpy().tobytes())
                    placed[name] = ir.ExternalTensor(
                        WEIGHTS, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.numpy().shape), name=name,
                        base_dir=folder,
                    )  # fmt: skip
                value.const_value = placed[name]
    for name, model in models.items():
        ir.save(model, folder / f"{name}.onnx")


def _write_tokenizer(source: Source, folder: Path) -> TokenizerInfo:
    text, tokens = source.config.text, source.tokens
    if tokens is None:
        (folder / TOKENIZER).write_text(clip_tokenizer_json(), "utf-8")
        return TokenizerInfo(file=TOKENIZER, **clip_tokenizer_settings(text.context_length))
    (folder / TOKENIZER).write_text(tokens.json, "utf-8")
    return TokenizerInfo(
        TOKENIZER, text.context_length, tokens.start, tokens.end, tokens.pad, tokens.unknown, tokens.clean
    )


def _model_info(source: Source) -> ModelInfo:
    config, state = source.config, source.state
    explained = config.vision.pooler or config.vision
    scale, bias = state.get("logit_scale"), state.get("logit_bias")
    return ModelInfo(
        name=config.name,
        source=source.origin,
        licence=source.licence,
        activation=config.vision.activation,
        layers=config.vision.depth,
        width=explained.width,
        heads=explained.heads,
        embed_dim=config.embed_dim,
        image_size=config.vision.image_size,
        patch_size=config.vision.patch_size,
        logit_scale=_number("logit_scale", scale.exp()) if scale is not None else 1.0,
        logit_bias=None if bias is None else _number("logit_bias", bias),
        mean=source.normalisation.mean,
        std=source.normalisation.std,
        pool=config.vision.pool,
    )


def _number(name: str, tensor: torch.Tensor) -> float:
    if tensor.numel() != 1:
        raise ExportError(f"{name} must be one number", got=f"shape {tuple(tensor.shape)}")
    return float(tensor)


def _graph_info(name: str, built: Built) -> GraphInfo:
    def tensors(values: Iterable[ir.Value]) -> dict[str, TensorInfo]:
        result = {}
        for value in values:
            if value.name is None or value.shape is None or value.name not in SIGNALS:
                raise ExportError("graph has a tensor that is no known signal", got=value.name)
            dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
            result[value.name] = TensorInfo(dims, built.blocks if SIGNALS[value.name].per_block else None)
        return result

    graph = built.model.graph
    return GraphInfo(f"{name}.onnx", built.cost, tensors(graph.inputs), tensors(graph.outputs))


def _versions() -> dict[str, str]:
    packages = ("eyeshine", "torch", "open_clip_torch", "onnx_ir", "onnxruntime", "tokenizers", "numpy")
    return {package: importlib.metadata.version(package) for package in packages}
