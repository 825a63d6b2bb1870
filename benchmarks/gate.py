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

__all__ = ["Array", "Case", "Facts", "GateError", "NotSupportedError", "check"]

Array = NDArray[Any]


class GateError(RuntimeError):
    """A case yields a wrong result; it is not timed."""


class NotSupportedError(RuntimeError):
    """This machine or this version cannot run a case; its row says why."""


@dataclass(frozen=True)
class Facts:
    """What a row says of a case beside its times.

    Attributes:
        spec: what it is.
        provider: what runs it, as the engine names itself.
        precision: what its results are as precise as, a key of ``TOLERANCES``.
        bundle_hash: of the bundle that it reads; None without one.
        repeats: how often it is done for one time, which is divided by it.
        least_bytes: that it must move: every input read once, every output written once; None where nobody asks.
    """

    spec: CaseSpec
    provider: str
    precision: str = "fp32"
    bundle_hash: str | None = None
    repeats: int = 1
    least_bytes: int | None = None


@dataclass(frozen=True)
class Case:
    """A case that can run.

    Attributes:
        facts: for its row.
        run: does it ``repeats`` times.
        probe: does it once and yields what is compared.
        expected: computes what it should yield.
        tolerance: in place of that of its precision.
    """

    facts: Facts
    run: Callable[[], object]
    probe: Callable[[], Mapping[str, Array]]
    expected: Callable[[], Mapping[str, Array]]
    tolerance: float | None = None

    def check(self) -> float:
        """Largest relative error of one run.

        Raises:
            GateError: the result is wrong.
            NotSupportedError: there is no tolerance for its precision.
        """
        tolerance = TOLERANCES.get(self.facts.precision) if self.tolerance is None else self.tolerance
        if tolerance is None:
            raise NotSupportedError(f"no tolerance for {self.facts.precision}")
        return check(self.facts.spec.name, self.probe(), self.expected(), tolerance)


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
