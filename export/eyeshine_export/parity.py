"""The check of written graphs against autograd; a graph that fails it is not exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from eyeshine.engine import CpuOptions, OrtCpuSession
from eyeshine.errors import ExportError
from eyeshine.manifest import Precision
from eyeshine.signals import last_blocks
from eyeshine.verify import TOLERANCES, output_error
from eyeshine_export.groups import Built, Group
from eyeshine_export.oracle import Oracle, common_inputs

__all__ = ["check_graphs", "tolerance"]

_CURES: Final[dict[Precision, str]] = {
    "fp32": "report it with the model's configuration; nothing was exported",
    "fp16": "this model does not bear the rounding: export it in fp32",
    "int8": "this model does not bear the rounding: export it in fp32",
}
_SHAPES: Final = ((1, 1), (3, 1), (1, 5), (3, 5))
"""Images and prompts."""
_TEXT: Final = ("text", "words")


def tolerance(graph: str, precision: Precision) -> float:
    """Largest relative error of any output (docs/numerics.md); the text graphs of an int8 bundle are float32."""
    return TOLERANCES["fp32" if graph in _TEXT and precision == "int8" else precision]


def check_graphs(
    folder: Path, groups: Mapping[Group, Mapping[str, Built]], oracle: Oracle, precision: Precision = "fp32"
) -> dict[str, dict[str, float]]:
    """Run every written graph on random inputs beside the oracle.

    Args:
        folder: where NAME.onnx lie.
        groups: the graphs of every group.
        oracle: the reference, in float32 or float64 whatever the precision.
        precision: of the graphs.

    Returns:
        graph -> output -> largest relative error over all shapes.

    Raises:
        ExportError: an error above ``tolerance``, with the graph, output and shape; a graph without a case.
    """
    worst: dict[str, dict[str, float]] = {}
    random = np.random.default_rng(0)
    shapes = [common_inputs(oracle.source, images, prompts, random) for images, prompts in _SHAPES]
    for group, graphs in groups.items():
        cases = [case for inputs in shapes for case in group.cases(oracle, graphs, inputs)]
        for name, built in graphs.items():
            # One session at a time: each packs its own copy of the weights, and bigG's are 10 GB.
            session = OrtCpuSession(folder / f"{name}.onnx", CpuOptions())
            for case in cases:
                if name in case.graphs:
                    inputs = {key: case.inputs[key] for key in session.input_dims}
                    for output, value in session.run(inputs, list(session.output_dims)).outputs.items():
                        wanted = last_blocks(output, case.expected[output], len(built.blocks))
                        _record(worst, name, output, output_error(output, value, wanted), case.shape, precision)
            if name not in worst:
                raise ExportError("a graph is not checked by any case of its group", got=f"{name} of {group.name}")
    return worst


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
