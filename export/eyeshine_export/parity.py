"""The check of written graphs against autograd; a graph that fails it is not exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from eyeshine.engine import CpuOptions, OrtCpuSession
from eyeshine.errors import ExportError
from eyeshine.manifest import Precision
from eyeshine.signals import last_blocks
from eyeshine.verify import TOLERANCES, output_error
from eyeshine_export.reference import explain_reference, text_reference
from eyeshine_export.source import Source

__all__ = ["Oracle", "check_graphs", "tolerance"]

_CURES: Final[dict[Precision, str]] = {
    "fp32": "report it with the model's configuration; nothing was exported",
    "fp16": "this model does not bear the rounding: export it in fp32",
    "int8": "this model does not bear the rounding: export it in fp32",
}
_BATCHES, _PROMPTS = (1, 3), (1, 5)
_DOUBLE_UP_TO = 400_000_000  # weights; beyond that a float64 copy would not fit beside the rest

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Oracle:
    """The reference model, in float64 where it fits."""

    source: Source
    state: Mapping[str, torch.Tensor]
    dtype: torch.dtype

    @classmethod
    def of(cls, source: Source) -> Oracle:
        small = sum(tensor.numel() for tensor in source.state.values()) <= _DOUBLE_UP_TO
        dtype = torch.float64 if small else torch.float32
        return cls(source, {name: tensor.to(dtype) for name, tensor in source.state.items()}, dtype)

    def explain(self, pixels: NDArray[np.float32], text: NDArray[np.float32], layers: int) -> dict[str, Array]:
        """All signals of the last ``layers`` blocks, float32."""
        normalisation = self.source.normalisation
        signals = explain_reference(
            self.state,
            self.source.config,
            torch.from_numpy(pixels).to(self.dtype),
            torch.from_numpy(text).to(self.dtype),
            layers,
            normalisation.mean,
            normalisation.std,
        )
        return {name: tensor.float().numpy() for name, tensor in signals.items()}

    def text(self, tokens: NDArray[np.int64]) -> Array:
        """Unit text embeddings, float32."""
        with torch.no_grad():
            embedding: Array = text_reference(self.state, self.source.config, torch.from_numpy(tokens)).float().numpy()
        return embedding


def tolerance(graph: str, precision: Precision) -> float:
    """Largest relative error of any output (docs/numerics.md); the text graph of an int8 bundle is float32."""
    return TOLERANCES["fp32" if graph == "text" and precision == "int8" else precision]


def check_graphs(
    folder: Path, graphs: Mapping[str, int], oracle: Oracle, precision: Precision = "fp32"
) -> dict[str, dict[str, float]]:
    """Run every written graph on random inputs beside the oracle.

    Args:
        folder: where NAME.onnx lie.
        graphs: name -> explained blocks (0 for graphs without any).
        oracle: the reference, in float32 or float64 whatever the precision.
        precision: of the graphs.

    Returns:
        graph -> output -> largest relative error over all shapes.

    Raises:
        ExportError: an error above ``tolerance``, with the graph, output and shape.
    """
    worst: dict[str, dict[str, float]] = {}
    cases = _cases(oracle, max(graphs.values()))
    for name, layers in graphs.items():
        # One session at a time: each packs its own copy of the weights, and bigG's are 10 GB.
        session = OrtCpuSession(folder / f"{name}.onnx", CpuOptions())
        for case in cases:
            if case.inputs.keys() >= session.input_dims.keys():
                inputs = {key: case.inputs[key] for key in session.input_dims}
                for output, value in session.run(inputs, list(session.output_dims)).outputs.items():
                    wanted = last_blocks(output, case.expected[output], layers)
                    _record(worst, name, output, output_error(output, value, wanted), case.shape, precision)
    return worst


@dataclass(frozen=True)
class _Case:
    """Random inputs and what the oracle makes of them."""

    shape: str
    inputs: dict[str, Array]
    expected: dict[str, Array]


def _cases(oracle: Oracle, layers: int) -> list[_Case]:
    random = np.random.default_rng(0)
    config = oracle.source.config
    cases = []
    for prompts in _PROMPTS:
        tokens = _tokens(random, prompts, oracle.source)
        cases.append(_Case(f"P={prompts}", {"tokens": tokens}, {"text_embedding": oracle.text(tokens)}))
        for images in _BATCHES:
            pixels = random.random((images, 3, *config.vision.image_size), dtype=np.float32)
            text = random.standard_normal((prompts, config.embed_dim), dtype=np.float32)
            expected = oracle.explain(pixels, text, max(layers, 1))
            cases.append(_Case(f"B={images}, P={prompts}", {"pixels": pixels, "text": text}, expected))
    return cases


def _record(
    worst: dict[str, dict[str, float]], graph: str, output: str, error: float, shape: str, precision: Precision
) -> None:
    allowed = tolerance(graph, precision)
    if not error <= allowed:
        raise ExportError(
            f"{graph}.onnx disagrees with autograd in {output}",
            got=f"relative error {error:.3g} at {shape}",
            allowed=f"{allowed:g}",
            cure=_CURES[precision],
        )
    worst.setdefault(graph, {})[output] = max(error, worst.get(graph, {}).get(output, 0.0))


def _tokens(random: np.random.Generator, count: int, source: Source) -> NDArray[np.int64]:
    """Random token ids with one end token each, padded; texts of different lengths."""
    text = source.config.text
    end = text.vocab_size - 1 if text.end_id is None else text.end_id
    tokens = np.zeros((count, text.context_length), dtype=np.int64)
    for row in tokens:
        length = int(random.integers(2, text.context_length))
        row[:length] = random.integers(3, text.vocab_size - 2, length)
        row[length] = end
    return tokens
