"""The numeric gate: a bundle's golden inputs through an engine, its outputs against autograd's.

Engines have shipped silently wrong attention (NVIDIA/TensorRT#4837) and silently wrong gradients (engine/openvino.py);
what a bundle says of itself was true on the machine that exported it. This says whether it is true here.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.cache import cache_folder, digest
from eyeshine.engine import CpuOptions, EngineOptions, Session, open_session
from eyeshine.errors import BundleError, EngineError
from eyeshine.signals import SIGNALS, last_blocks

__all__ = ["TOLERANCES", "Check", "Verification", "check_graph", "gate", "output_error", "verify"]

TOLERANCES: Final = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 2e-1}
"""Largest relative error per precision, with reasons in docs/numerics.md."""

Array = NDArray[np.generic]


def output_error(output: str, got: Array, expected: Array) -> float:
    """Largest absolute difference over the largest absolute expected value; infinite where shapes differ or NaN.

    A similarity of any kind is measured against 1: a cosine is a sum of products of unit vectors and can be near 0 by
    itself, its rounding error is that of 1.
    """
    values, wanted = got.astype(np.float64), expected.astype(np.float64)
    if values.shape != wanted.shape or not np.isfinite(values).all():
        return float("inf")
    least = 1.0 if output.endswith("similarity") else 1e-30
    return float(np.abs(values - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), least))


@dataclass(frozen=True)
class Check:
    """One output of one graph.

    Attributes:
        graph, output: which.
        error: relative, see ``output_error``.
        tolerance: for the precision of bundle and engine.
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


def verify(bundle: Bundle, options: EngineOptions | None = None) -> Verification:
    """Run every graph of a bundle on its golden inputs and compare its outputs.

    Raises:
        BundleError: a precision without a tolerance, or a graph without golden values.
        EngineError: the engine is not there, or refuses or fails to run a graph.
    """
    chosen = CpuOptions() if options is None else options
    checks: list[Check] = []
    for name in bundle.manifest.graphs:
        checks += check_graph(bundle, name, open_session(bundle, name, chosen), chosen)
    return Verification(bundle.name, chosen.metadata(), tuple(checks))


def check_graph(bundle: Bundle, name: str, session: Session, options: EngineOptions) -> list[Check]:
    """Run one graph on its golden inputs, repeated to the sizes that the engine takes, and compare every output.

    Raises:
        BundleError: a precision without a tolerance, or a graph without golden values.
        EngineError: the engine fails to run the graph.
    """
    precision = options.precision(bundle.manifest.precision)
    if precision not in TOLERANCES:
        raise BundleError("no tolerance for this precision", got=precision, allowed=", ".join(TOLERANCES))
    graph, golden = bundle.graph(name), bundle.golden(name)
    expected = {output: _golden(golden, name, output) for output in graph.outputs}
    missing = [output for output, array in expected.items() if array is None]
    missing += [key for key in graph.inputs if f"in/{key}" not in golden]
    if missing:
        what = f"bundle has no golden values for {name}"
        raise BundleError(what, got=f"none for {', '.join(missing)}", cure="export the bundle again")
    inputs = {key: _repeated(key, golden[f"in/{key}"], options) for key in graph.inputs}
    if options.device_type != "cpu":
        # Other values first: an engine that was captured with stale ones, or bakes them in, would repeat these.
        session.run(
            {key: np.ascontiguousarray(array[::-1, ..., ::-1]) for key, array in inputs.items()}, list(expected)
        )
    checks: list[Check] = []
    for output, value in session.run(inputs, list(expected)).outputs.items():
        wanted = expected[output]
        assert wanted is not None
        # Of the deep graph's keys and values a bundle holds the block that it shares with the image graph.
        blocks = wanted.shape[SIGNALS[output].dims.index("K")] if SIGNALS[output].per_block else 0
        error = output_error(output, last_blocks(output, value, blocks), _repeated(output, wanted, options))
        checks.append(Check(name, output, error, TOLERANCES[precision]))
    return checks


def _golden(golden: Mapping[str, Array], graph: str, output: str) -> Array | None:
    """The golden value of an output, or that of the image graph where a deeper one shares it; None without any."""
    shared = f"image/{output}" if output in SIGNALS and SIGNALS[output].per_block else ""
    return golden.get(f"{graph}/{output}", golden.get(shared))


def _repeated(signal: str, array: Array, options: EngineOptions) -> Array:
    """A golden tensor, its images and texts repeated in turn to the nearest size that the engine takes."""
    for axis, dim in enumerate(SIGNALS[signal].dims):
        if dim in ("B", "P"):
            count = array.shape[axis]
            array = array.take(np.arange(options.nearest(dim, count)) % count, axis)
    return array


def gate(bundle: Bundle, name: str, session: Session, options: EngineOptions, *, again: bool = False) -> None:
    """Refuse an engine whose graph yields wrong numbers; asked once per bundle, engine, machine and versions.

    That it passed is written into ``cache_folder()``; where that cannot be written it is asked again next time.

    Args:
        bundle: of the graph.
        name: of the graph.
        session: the graph on the engine.
        options: of the engine.
        again: ask in any case: an engine that was built anew is another program.

    Raises:
        EngineError: an output differs from its golden value by more than the tolerance.
    """
    from eyeshine import __version__

    precision = options.precision(bundle.manifest.precision)
    held = digest({"eyeshine": __version__, "tolerance": TOLERANCES.get(precision)})
    record = cache_folder() / "gate" / f"{options.cache_tag(bundle.hash)}-{held}-{name}.json"
    if record.is_file() and not again:
        return
    checks = check_graph(bundle, name, session, options)
    wrong = [check for check in checks if not check.passed]
    if wrong:
        raise EngineError(
            f"{session.provider} computes graph {name} of bundle {bundle.name} wrongly and is refused",
            got=", ".join(f"{check.output} off by {check.error:.1e} of its largest value" for check in wrong),
            allowed=f"{wrong[0].tolerance:.0e}",
            cure="eyeshine verify BUNDLE --provider ... shows every output; use another provider, version or precision",
        )
    facts = {"bundle": bundle.name, "engine": options.metadata(), "errors": {c.output: c.error for c in checks}}
    _write(record, facts)


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a record whole or not at all; without the right to, nothing is lost but time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)
        Path(partial).replace(path)
    except OSError:
        return
