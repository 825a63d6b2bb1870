"""What every engine offers: options that open a graph, a session that runs it, and the check of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.errors import BundleError
from eyeshine.manifest import GraphInfo

__all__ = [
    "DeviceArray",
    "DeviceResult",
    "Dims",
    "EngineOptions",
    "HostSession",
    "RunResult",
    "Session",
    "Tensor",
    "check_session",
]

Tensor = NDArray[np.generic]
Dims = tuple[int | str, ...]


class DeviceArray(Protocol):
    """A tensor where the engine left it, for any consumer of DLPack (``torch.from_dlpack``, ``cupy.from_dlpack``)."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class RunResult:
    """Outputs of one run, on the host.

    Attributes:
        outputs: by name.
        provider: the execution provider that ran the graph.
        wall_ms: time of the call in milliseconds.
    """

    outputs: dict[str, NDArray[np.float32]]
    provider: str
    wall_ms: float


@dataclass(frozen=True)
class DeviceResult:
    """Outputs of one run, where the engine left them; fields as in ``RunResult``.

    With capture they are the engine's own buffers: the next run writes over them.
    """

    outputs: dict[str, DeviceArray]
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
        """Run the graph for the named outputs and bring them to the host."""
        ...

    def run_on_device(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> DeviceResult:
        """Run the graph and leave the named outputs where they are; nothing is copied to the host."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """While it is held, no other thread's run writes over the outputs of ``run_on_device``."""
        ...


class HostSession:
    """What a session is spared whose device is the host: every run has host arrays of its own."""

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        """Run the graph for the named outputs."""
        raise NotImplementedError

    def run_on_device(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> DeviceResult:
        """The host is the device: the same arrays."""
        result = self.run(inputs, outputs)
        values: dict[str, DeviceArray] = dict(result.outputs)
        return DeviceResult(values, result.provider, result.wall_ms)

    def hold(self) -> AbstractContextManager[None]:
        """Nothing to hold: every run has outputs of its own."""
        return nullcontext()


class EngineOptions(Protocol):
    """How one engine runs graphs: a frozen dataclass that checks itself.

    Attributes:
        engine: short name: "cpu", "cuda", "tensorrt", "openvino".
        device_type: where outputs are left: "cpu" or "cuda".
    """

    engine: ClassVar[str]
    device_type: ClassVar[str]

    def nearest(self, axis: str, size: int) -> int:
        """The size nearest to ``size`` that runs, along the axis B (images) or P (texts)."""
        ...

    def precision(self, bundle: str) -> str:
        """What the arithmetic is as precise as, for a bundle of the given precision: a key of ``TOLERANCES``."""
        ...

    def provider_options(self) -> dict[str, str]:
        """What is handed to the engine, without what depends on the graph."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What a record of a run should say."""
        ...

    def cache_tag(self, model: str) -> str:
        """A name for what is built for, or was found out about, this model, engine, machine and these versions.

        Args:
            model: hash of the bundle.
        """
        ...

    def check_available(self) -> None:
        """Raise EngineError, naming the wheel to install, where this machine cannot run the engine."""
        ...

    def open(self, bundle: Bundle, graph: str) -> Session:
        """Load a graph of a bundle.

        Raises:
            EngineError: the engine is not there, or refuses the graph.
        """
        ...


def coarser(one: str, other: str) -> str:
    """Of two precisions the one that keeps fewer bits of a number."""
    return max(one, other, key=("fp32", "fp16", "bf16", "int8").index)


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
