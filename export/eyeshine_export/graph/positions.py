"""Position embeddings of a grid that is not the model's own."""

from __future__ import annotations

import onnx_ir as ir

from eyeshine_export.graph.ops import Graph

__all__ = ["any_positions"]

CUBIC = -0.75
"""The cubic's coefficient in PyTorch's bicubic interpolation, which Grad-ECLIP resamples positions with."""


def any_positions(
    g: Graph, positions: ir.Value, grid: tuple[int, int], width: int, rows: ir.Value, columns: ir.Value
) -> ir.Value:  # fmt: skip
    """positions [N, D] of ``grid`` -> [rows * columns, D]: bicubic, pixel centres, no antialiasing.

    On the model's own grid they come out as they are: every place falls on itself, where the cubic's weights are 0 and
    1. rows, columns: one-element int64 values.
    """
    picture = g.transpose(g.reshape(positions, 1, *grid, width), 0, 3, 1, 2)
    size = g.concat([g.integers(1, width), rows, columns], 0)
    resized = g.op(
        "Resize",
        picture,
        None,
        None,
        size,
        mode="cubic",
        cubic_coeff_a=CUBIC,
        coordinate_transformation_mode="half_pixel",
    )
    return g.reshape(g.transpose(resized, 0, 2, 3, 1), -1, width)
