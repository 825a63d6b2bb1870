"""Models to measure: random weights of a real shape, exported our way and the plain way, from one state dictionary.

Speed does not depend on what the weights say, so no download is needed. Exports are kept in a git-ignored folder and
made anew when the exporter's source, a library or the configuration changes: a stale graph would be a wrong figure.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eyeshine.bundle import Bundle
from eyeshine_export.compat import import_open_clip
from eyeshine_export.config import parse_config
from eyeshine_export.graph.towers import explain_graph
from eyeshine_export.graph.weights import vision_weights
from eyeshine_export.source import Normalisation, Source, Tokens
from eyeshine_export.write import ExportOptions, export_bundle, write_graphs

__all__ = ["BENCH_FOLDER", "BenchModel", "Configuration", "prepare"]

BENCH_FOLDER = Path(__file__).parent.parent / "bundles" / "bench"
_SEED = 0
_LIBRARIES = ("torch", "open_clip_torch", "onnx", "onnxscript", "onnx_ir", "numpy")


@dataclass(frozen=True)
class Configuration:
    """What a measured model is made of.

    Attributes:
        name: of the model, in rows and file names.
        raw: an open_clip model configuration.
        tokens: the tokenizer where the model does not use CLIP's own.
    """

    name: str
    raw: Mapping[str, Any]
    tokens: Tokens | None = None

    def build(self) -> Any:
        """open_clip's model with seeded weights, in evaluation mode."""
        open_clip = import_open_clip()
        arguments = {key: value for key, value in self.raw.items() if key != "preprocess_cfg"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = open_clip.CLIP(**arguments).eval()
            _unsettle(model)
            return model

    def source(self, model: Any) -> Source:
        """What the exporter needs, with the weights of ``model``."""
        values = dict(self.raw.get("preprocess_cfg") or {})
        return Source(
            config=parse_config(self.name, self.raw),
            state={name: tensor.detach() for name, tensor in model.state_dict().items()},
            origin=f"random weights, seed {_SEED}",
            licence="none: random weights",
            normalisation=Normalisation(**{key: tuple(values[key]) for key in ("mean", "std") if key in values}),
            tokens=self.tokens,
        )

    def fingerprint(self) -> str:
        """Changes with everything that an export depends on."""
        import eyeshine_export

        digest = hashlib.sha256(json.dumps([self.name, self.raw], sort_keys=True).encode())
        digest.update(repr(self.tokens).encode())
        root = Path(eyeshine_export.__file__).parent
        for file in (*sorted(root.glob("*.py")), *sorted((root / "graph").glob("*.py")), Path(__file__)):
            digest.update(file.name.encode() + file.read_bytes())
        digest.update(" ".join(importlib.metadata.version(library) for library in _LIBRARIES).encode())
        return digest.hexdigest()


def _unsettle(model: torch.nn.Module) -> None:
    """Move biases and LayerNorm scales off 0 and 1, where torch's exporter drops and shares them as constants."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)


@dataclass(frozen=True)
class BenchModel:
    """One model, exported.

    Attributes:
        configuration: what it is.
        folder: holds the bundle ``two``, the graph ``all/deep.onnx`` and ``plain.onnx``.
    """

    configuration: Configuration
    folder: Path

    @property
    def name(self) -> str:
        return self.configuration.name

    @cached_property
    def network(self) -> Any:
        """open_clip's own model with the exported weights."""
        return self.configuration.build()

    @cached_property
    def source(self) -> Source:
        return self.configuration.source(self.network)

    @cached_property
    def two(self) -> Bundle:
        """Exported with ``--layers 2``; its image graph is that of every bundle."""
        return Bundle.open(self.folder / "two", verify=False)

    @property
    def all_blocks(self) -> Path:
        """The deep graph of ``--layers`` with the whole tower."""
        return self.folder / "all" / "deep.onnx"

    @property
    def plain(self) -> Path:
        """open_clip's image encoder as torch.onnx exports it."""
        return self.folder / "plain.onnx"


class PlainEncoder(torch.nn.Module):
    """open_clip's ``visual`` as it stands, and the length 1 that every user of it adds. Takes normalised pixels."""

    def __init__(self, visual: torch.nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.visual(pixels), dim=-1)


def prepare(configuration: Configuration, root: Path = BENCH_FOLDER) -> BenchModel:
    """Export a model, or take what an earlier run exported from the same sources."""
    model = BenchModel(configuration, root / configuration.name)
    stamp, wanted = model.folder / "fingerprint", configuration.fingerprint()
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return model
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{configuration.name}-", dir=root))
    try:
        source = model.source
        export_bundle(source, partial / "two", ExportOptions(layers=2))
        _export_all_blocks(source, partial / "all")
        _export_plain(model.network.visual, source.config.vision.image_size, partial / "plain.onnx")
        (partial / "fingerprint").write_text(wanted, "utf-8")
        shutil.rmtree(model.folder, ignore_errors=True)
        partial.rename(model.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return model


def _export_all_blocks(source: Source, folder: Path) -> None:
    """What ``--layers`` with the whole tower writes as deep.onnx.

    Without the rest of the bundle: its check against float64 autograd takes minutes here, and the benchmark compares
    the graph with autograd itself.
    """
    config, normalisation = source.config, source.normalisation
    state = {name: tensor.numpy() for name, tensor in source.state.items()}
    weights = vision_weights(state, config.vision, config.embed_dim, normalisation.mean, normalisation.std)
    folder.mkdir()
    write_graphs({"deep": explain_graph(config, weights, config.vision.layers)}, folder)


def _export_plain(visual: torch.nn.Module, image_size: tuple[int, int], path: Path) -> None:
    """torch.onnx.export with its defaults and a dynamic batch."""
    # Two images: torch.export takes a batch of one for a constant.
    example = torch.zeros(2, 3, *image_size)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # torch reports its progress on stdout, and warns about its own code.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            PlainEncoder(visual).eval(),
            (example,),
            path,
            input_names=["pixels"],
            output_names=["embedding"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("B", min=1)}},
            dynamo=True,
            external_data=True,
        )
