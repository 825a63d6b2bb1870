"""No time without a right result: every case is compared with autograd in eager PyTorch before it is timed.

The oracle is the exporter's reference (``workload.py``), which shares nothing with the graphs but the weights; the map
is written in torch there and in NumPy in the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from benchmarks.registry import CaseSpec
from eyeshine.verify import TOLERANCES, output_error

__all__ = ["Array", "Case", "GateError", "NotSupportedError", "check"]

Array = NDArray[Any]


class GateError(RuntimeError):
    """A case yields a wrong result; it is not timed."""


class NotSupportedError(RuntimeError):
    """This machine or this version cannot run a case; its row says why."""


@dataclass(frozen=True)
class Case:
    """A case that can run.

    Attributes:
        spec: what it is.
        run: does it once and returns what it yields.
        expected: computes what it should yield.
        probe: yields what is compared with that, where it is not ``run``.
        provider: what runs it, as the engine names itself.
        precision: what its results are as precise as, a key of ``TOLERANCES``.
        bundle_hash: of the bundle that it reads; None without one.
        repeats: how often it is done for one time, which is divided by it.
        least_bytes: that it must move: every input read once, every output written once; None where nobody asks.
        tolerance: in place of that of its precision.
    """

    spec: CaseSpec
    run: Callable[[], object]
    expected: Callable[[], Mapping[str, Array]]
    probe: Callable[[], Mapping[str, Array]]
    provider: str
    precision: str = "fp32"
    bundle_hash: str | None = None
    repeats: int = 1
    least_bytes: int | None = None
    tolerance: float | None = None

    def check(self) -> float:
        """Largest relative error of one run.

        Raises:
            GateError: the result is wrong.
            NotSupportedError: there is no tolerance for its precision.
        """
        tolerance = TOLERANCES.get(self.precision) if self.tolerance is None else self.tolerance
        if tolerance is None:
            raise NotSupportedError(f"no tolerance for {self.precision}")
        return check(self.spec.name, self.probe(), self.expected(), tolerance)


def check(case: str, got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> float:
    """Compare everything that a case yields; return the largest relative error.

    Raises:
        GateError: an error above the tolerance, or nothing to compare.
    """
    shared = sorted(got.keys() & expected.keys())
    if not shared:
        raise GateError(f"{case}: nothing to compare; it yields {sorted(got)}, the reference {sorted(expected)}")
    errors = {name: output_error(name, got[name], expected[name]) for name in shared}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= tolerance:
        raise GateError(f"{case}: {worst} is wrong: relative error {errors[worst]:.3g}, allowed {tolerance:g}")
    return errors[worst]
