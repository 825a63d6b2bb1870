"""Exports of the models to measure, kept in a git-ignored folder.

They are made at their first use, and made anew when the exporter's source, a library or the configuration changes: a
stale graph would be a wrong figure.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.bare import write_deep, write_plain, write_precision
from benchmarks.models import Configuration
from eyeshine.bundle import Bundle
from eyeshine_export.source import Source
from eyeshine_export.write import ExportOptions, export_bundle

__all__ = ["BENCH_FOLDER", "BenchModel", "prepare"]

BENCH_FOLDER = Path(__file__).parent.parent / "bundles" / "bench"


@dataclass(frozen=True)
class BenchModel:
    """One model and its exports.

    Attributes:
        configuration: what it is.
        folder: holds the bundles.
        network: open_clip's own model with the exported weights.
    """

    configuration: Configuration
    folder: Path
    network: Any

    @property
    def name(self) -> str:
        return self.configuration.name

    @cached_property
    def source(self) -> Source:
        return self.configuration.source(self.network)

    def full(self) -> Bundle:
        """What ``eyeshine export`` writes, with its check against autograd."""
        return self._made("full", lambda folder: export_bundle(self.source, folder))

    def signals(self, groups: tuple[str, ...]) -> Bundle:
        """What ``eyeshine export --signals`` writes."""
        options = ExportOptions(signals=groups)
        return self._made(f"signals-{'-'.join(groups)}", lambda folder: export_bundle(self.source, folder, options))

    def precise(self, precision: str) -> Bundle:
        """``encode`` and ``image`` in "fp32", "fp16" or "int8"."""
        return self._made(precision, lambda folder: write_precision(self.source, folder, precision))

    def deep(self, blocks: int) -> Bundle:
        """``deep`` for the last ``blocks`` blocks."""
        return self._made(f"deep-{blocks}", lambda folder: write_deep(self.source, folder, blocks))

    def plain(self, precision: str = "fp32") -> Bundle:
        """``plain``, open_clip's image encoder as torch.onnx exports it."""
        return self._made(
            f"plain-{precision}",
            lambda folder: write_plain(self.source, self.network.visual, folder, precision),
        )

    def _made(self, name: str, write: Callable[[Path], object]) -> Bundle:
        """A bundle of this model, exported unless it is there."""
        folder = self.folder / name
        if not folder.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))
            try:
                write(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return Bundle.open(folder, verify=False)


def prepare(configuration: Configuration, root: Path = BENCH_FOLDER, network: Any = None) -> BenchModel:
    """The model of a configuration; what other sources exported is removed.

    Args:
        configuration: of the model.
        root: holds a folder for every model.
        network: ``configuration.build()`` where the caller has it.
    """
    folder = root / configuration.name
    stamp, wanted = folder / "fingerprint", configuration.fingerprint()
    if not stamp.is_file() or stamp.read_text("utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stamp.write_text(wanted, "utf-8")
    return BenchModel(configuration, folder, configuration.build() if network is None else network)
