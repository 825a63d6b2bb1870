"""The numeric gate: a bundle's golden inputs through an engine, its outputs against autograd's.

Engines have shipped silently wrong attention (NVIDIA/TensorRT#4837); what a bundle says of itself was true on the
machine that exported it. This says whether it is true here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.engine import CpuOptions, OrtCpuSession, check_session
from eyeshine.errors import BundleError

__all__ = ["TOLERANCES", "Check", "Verification", "output_error", "verify"]

TOLERANCES: Final = {"fp32": 1e-4}
"""Largest relative error per precision, with reasons in docs/numerics.md."""

Array = NDArray[np.generic]


def output_error(output: str, got: Array, expected: Array) -> float:
    """Largest absolute difference over the largest absolute expected value; infinite where shapes differ or NaN.

    A ``similarity`` is measured against 1: a cosine is a sum of products of unit vectors and can be near 0 by itself,
    its rounding error is that of 1.
    """
    values, wanted = got.astype(np.float64), expected.astype(np.float64)
    if values.shape != wanted.shape or not np.isfinite(values).all():
        return float("inf")
    least = 1.0 if output == "similarity" else 1e-30
    return float(np.abs(values - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), least))


@dataclass(frozen=True)
class Check:
    """One output of one graph.

    Attributes:
        graph, output: which.
        error: relative, see ``output_error``.
        tolerance: for the bundle's precision.
    """

    graph: str
    output: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (a NaN is not)."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """All checks of one bundle on one engine.

    Attributes:
        bundle: its name.
        engine: provider, threads, determinism.
        checks: every output of every graph that has a golden value.
    """

    bundle: str
    engine: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify(bundle: Bundle, options: CpuOptions | None = None) -> Verification:
    """Run every graph of a bundle on its golden inputs and compare its outputs.

    Raises:
        BundleError: a precision without a tolerance, or a graph without golden values.
        EngineError: the engine refuses or fails to run a graph.
    """
    chosen = CpuOptions() if options is None else options
    precision = bundle.manifest.precision
    if precision not in TOLERANCES:
        raise BundleError("no tolerance for this precision", got=precision, allowed=", ".join(TOLERANCES))
    golden = bundle.golden()
    checks: list[Check] = []
    for name, graph in bundle.manifest.graphs.items():
        outputs = [output for output in graph.outputs if f"{name}/{output}" in golden]
        if not outputs or not all(f"in/{key}" in golden for key in graph.inputs):
            raise BundleError(f"bundle has no golden values for {name}", cure="export the bundle again")
        session = OrtCpuSession(bundle.folder / graph.file, chosen)
        check_session(session, graph)
        run = session.run({key: golden[f"in/{key}"] for key in graph.inputs}, outputs)
        for output, value in run.outputs.items():
            error = output_error(output, value, golden[f"{name}/{output}"])
            checks.append(Check(name, output, error, TOLERANCES[precision]))
    return Verification(bundle.name, chosen.metadata(), tuple(checks))
