"""What every engine offers, and the check that a graph is what the manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import BundleError
from eyeshine.manifest import GraphInfo

__all__ = ["RunResult", "Session", "check_session"]

Tensor = NDArray[np.generic]
Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class RunResult:
    """Outputs of one run.

    Attributes:
        outputs: by name, on the host.
        provider: the execution provider that ran the graph.
        wall_ms: time of the call in milliseconds.
    """

    outputs: dict[str, NDArray[np.float32]]
    provider: str
    wall_ms: float


class Session(Protocol):
    """One loaded graph. ``run`` may be called from several threads at once."""

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        ...

    @property
    def input_dims(self) -> Mapping[str, Dims]:
        """Inputs of the graph; letters are dynamic axes."""
        ...

    @property
    def output_dims(self) -> Mapping[str, Dims]:
        """Outputs of the graph."""
        ...

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        """Run the graph for the named outputs."""
        ...


def check_session(session: Session, graph: GraphInfo) -> None:
    """Raise BundleError where a graph's inputs or outputs are not those that its manifest names."""
    for kind, found, stated in (
        ("input", session.input_dims, graph.inputs),
        ("output", session.output_dims, graph.outputs),
    ):
        expected = {name: tensor.dims for name, tensor in stated.items()}
        if dict(found) != expected:
            differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise BundleError(
                f"graph and manifest disagree about {kind}s",
                got=f"{graph.file}: {', '.join(f'{name} {found.get(name)}' for name in differing)}",
                allowed=", ".join(f"{name} {expected.get(name)}" for name in differing),
                cure="export the bundle again",
            )
