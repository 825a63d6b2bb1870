"""Bundles of one or two graphs for the engines alone: no text tower, no tokenizer, no golden values, no parity check.

An export's check against float64 autograd takes up to minutes; the benchmark's gate compares every graph with autograd
on the machine that it is timed on.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch

from eyeshine.bundle import HEADS, sha256_of
from eyeshine.manifest import SCHEMA, FileInfo, GraphInfo, Manifest, ModelInfo, TensorInfo, TokenizerInfo
from eyeshine.signals import SIGNALS
from eyeshine_export.graph.ops import OPSET
from eyeshine_export.graph.towers import encode_graph, explain_graph
from eyeshine_export.graph.weights import VisionWeights, vision_weights
from eyeshine_export.heads import head_projection
from eyeshine_export.source import Source
from eyeshine_export.write import ExportOptions, write_graphs

__all__ = ["write_deep", "write_plain", "write_precision"]

_TOKENIZER, _GOLDEN = "tokenizer.json", "golden.npz"


def write_precision(source: Source, folder: Path, precision: str) -> None:
    """``encode`` and ``image`` in the given precision."""
    form, weights = ExportOptions(precision=cast(Any, precision)).form(), _weights(source)
    models = {
        "encode": encode_graph(source.config, weights, form),
        "image": explain_graph(source.config, weights, form=form),
    }
    write_graphs(models, folder)
    np.save(folder / HEADS, head_projection(weights, 1), allow_pickle=False)
    _write_manifest(source, folder, {name: _info(name, model, source, 1) for name, model in models.items()}, precision)


def write_deep(source: Source, folder: Path, blocks: int) -> None:
    """``deep`` for the last ``blocks`` blocks, as ``--layers`` writes it."""
    weights = _weights(source)
    model = explain_graph(source.config, weights, blocks)
    write_graphs({"deep": model}, folder)
    np.save(folder / HEADS, head_projection(weights, blocks), allow_pickle=False)
    _write_manifest(source, folder, {"deep": _info("deep", model, source, blocks)}, "fp32")


def write_plain(source: Source, visual: torch.nn.Module, folder: Path, precision: str) -> None:
    """``plain``: open_clip's image encoder by torch.onnx.export with its defaults and a dynamic batch."""
    size, width = source.config.vision.image_size, source.config.embed_dim
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    # Two images: torch.export takes a batch of one for a constant.
    example = torch.zeros(2, 3, *size)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # torch reports its progress on stdout, and warns about its own code.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            PlainEncoder(copy.deepcopy(visual).to(dtype), dtype).eval(),
            (example,),
            folder / "plain.onnx",
            input_names=["pixels"],
            output_names=["embedding"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("B", min=1)}},
            dynamo=True,
            external_data=True,
        )
    inputs, outputs = {"pixels": TensorInfo(("B", 3, *size))}, {"embedding": TensorInfo(("B", width))}
    _write_manifest(source, folder, {"plain": GraphInfo("plain.onnx", 0, inputs, outputs)}, precision)


class PlainEncoder(torch.nn.Module):
    """open_clip's ``visual`` as it stands, and the length 1 that every user of it adds.

    Takes normalised pixels and yields the embedding, both float32 whatever ``visual`` computes in.
    """

    def __init__(self, visual: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.visual, self.dtype = visual, dtype

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.visual(pixels.to(self.dtype)).float(), dim=-1)


def _weights(source: Source) -> VisionWeights:
    config, normalisation = source.config, source.normalisation
    state = {name: tensor.numpy() for name, tensor in source.state.items()}
    return vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)


def _info(name: str, model: ir.Model, source: Source, blocks: int) -> GraphInfo:
    depth = source.config.vision.layers
    explained = tuple(range(depth - blocks, depth))

    def tensors(values: Iterable[ir.Value]) -> dict[str, TensorInfo]:
        found = {}
        for value in values:
            assert value.name is not None
            assert value.shape is not None
            dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
            found[value.name] = TensorInfo(dims, explained if SIGNALS[value.name].per_block else None)
        return found

    return GraphInfo(f"{name}.onnx", blocks, tensors(model.graph.inputs), tensors(model.graph.outputs))


def _write_manifest(source: Source, folder: Path, graphs: dict[str, GraphInfo], precision: str) -> None:
    """The manifest, and empty files for what a manifest must name."""
    (folder / _TOKENIZER).write_text("{}\n", "utf-8")
    np.savez(folder / _GOLDEN, allow_pickle=False)
    config, normalisation = source.config, source.normalisation
    vision, preprocess = config.vision, source.preprocess
    assert preprocess is not None
    files = {path.name: FileInfo(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
    Manifest(
        schema=SCHEMA,
        name=config.name,
        model=ModelInfo(
            name=config.name,
            source=source.origin,
            licence=source.licence,
            activation=vision.activation,
            layers=vision.layers,
            width=vision.width,
            heads=vision.heads,
            embed_dim=config.embed_dim,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            logit_scale=1.0,
            logit_bias=None,
            mean=normalisation.mean,
            std=normalisation.std,
        ),
        grid=vision.grid,
        preprocess=preprocess.as_manifest(),
        tokenizer=TokenizerInfo(_TOKENIZER, config.text.context_length, 0, 0, 0, None, "clip"),
        graphs=graphs,
        weights=next(name for name in files if name.endswith((".bin", ".data"))),
        golden=_GOLDEN,
        opset=OPSET,
        precision=cast(Any, precision),  # Manifest checks it
        exporter={},
        files=files,
        parity={},
    ).write(folder)
