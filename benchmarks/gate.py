"""No time without a right result: every case is compared with autograd in eager PyTorch before it is timed.

The oracle is the exporter's reference, which shares nothing with the graphs but the weights; the map is written in
torch here and in NumPy in the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.eager import grad_eclip_map
from eyeshine.verify import output_error
from eyeshine_export.parity import TOLERANCE
from eyeshine_export.reference import explain_reference
from eyeshine_export.source import Source

__all__ = ["Array", "GateError", "Reference", "check"]

Array = NDArray[Any]


class GateError(RuntimeError):
    """A case yields a wrong result; it is not timed."""


@dataclass(frozen=True)
class Reference:
    """What a case should yield, by autograd.

    Attributes:
        source: configuration and weights.
    """

    source: Source

    def explain(self, pixels: NDArray[np.float32], text: NDArray[np.float32], blocks: int) -> dict[str, Array]:
        """Embedding, similarity, gradient [B, P, K, D] of the last ``blocks`` blocks and map [B, P, N] of the last."""
        normalisation = self.source.normalisation
        signals = explain_reference(
            self.source.state, self.source.config, torch.from_numpy(pixels), torch.from_numpy(text), blocks,
            normalisation.mean, normalisation.std,
        )  # fmt: skip
        query, keys, values = (signals[name][:, -1] for name in ("class_query", "keys", "values"))
        maps = [
            grad_eclip_map(signals["gradient"][:, prompt, -1], query, keys[:, 1:], values[:, 1:])
            for prompt in range(len(text))
        ]
        wanted = {name: signals[name].numpy() for name in ("embedding", "similarity", "gradient")}
        return {**wanted, "maps": torch.stack(maps, dim=1).numpy()}


def check(case: str, got: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Compare everything that a case yields; return the largest relative error.

    Raises:
        GateError: an error above the export's own tolerance, or nothing to compare.
    """
    shared = sorted(got.keys() & expected.keys())
    if not shared:
        raise GateError(f"{case}: nothing to compare; it yields {sorted(got)}, the reference {sorted(expected)}")
    errors = {name: output_error(name, got[name], expected[name]) for name in shared}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE:
        raise GateError(f"{case}: {worst} is wrong: relative error {errors[worst]:.3g}, allowed {TOLERANCE:g}")
    return errors[worst]
