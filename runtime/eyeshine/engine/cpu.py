"""onnxruntime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.cache import digest
from eyeshine.engine.machine import cpu_name, package_version
from eyeshine.engine.ort import Provider, dims_of, engine_errors, open_ort
from eyeshine.engine.session import Dims, HostSession, RunResult, Tensor
from eyeshine.errors import OptionError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["CpuOptions", "OrtCpuSession", "available_cpus"]

PROVIDER = "CPUExecutionProvider"


def available_cpus() -> int:
    """CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True)
class CpuOptions:
    """How the CPU runs a graph.

    Results are bit-equal run after run for one thread count, not across thread counts, so the count is explicit and
    recorded.

    Attributes:
        threads: threads inside an operator; by default the CPUs that this process may use.
        deterministic: deterministic compute.
        spinning: let idle threads spin. Off: with two sessions alternating on two cores, spinning made the median
            1.8 times as long (48.5 to 87 ms).
    """

    threads: int = 0
    deterministic: bool = True
    spinning: bool = False

    engine: ClassVar[str] = "cpu"
    device_type: ClassVar[str] = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.threads, int) or self.threads < 0:
            raise OptionError(
                "threads must be a whole number", got=self.threads, allowed="1 and more, or 0 for all CPUs"
            )
        if self.threads == 0:
            object.__setattr__(self, "threads", available_cpus())

    def nearest(self, axis: str, size: int) -> int:
        """``size``: every one runs."""
        return size

    def precision(self, bundle: str) -> str:
        """The bundle's own."""
        return bundle

    def session_options(self) -> onnxruntime.SessionOptions:
        """Threads, determinism and spinning for onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = self.deterministic
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.log_severity_level = 3
        return options

    def provider_options(self) -> dict[str, str]:
        """None: the CPU provider takes session options alone."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """What a record of a run should say."""
        return {"provider": PROVIDER, "threads": self.threads, "deterministic": self.deterministic}

    def cache_tag(self, model: str) -> str:
        """Model, CPU, onnxruntime and these options."""
        facts = {**self.metadata(), "model": model, "cpu": cpu_name(), "onnxruntime": _onnxruntime()}
        return f"cpu-{digest(facts)}"

    def check_available(self) -> None:
        """The CPU is always there."""

    def open(self, bundle: Bundle, graph: str) -> OrtCpuSession:
        """Load a graph of a bundle."""
        return OrtCpuSession(bundle.folder / bundle.graph(graph).file, self)


def _onnxruntime() -> str:
    return package_version("onnxruntime", "onnxruntime-gpu")


class OrtCpuSession(HostSession):
    """One graph on onnxruntime's CPU provider.

    Args:
        path: the graph; its weights lie beside it.
        options: threads and determinism.

    Raises:
        EngineError: onnxruntime refuses the graph.
    """

    def __init__(self, path: Path, options: CpuOptions) -> None:
        self._session = open_ort(path, options.session_options(), [Provider(PROVIDER, {})])
        self.provider: str = PROVIDER
        self.input_dims: Mapping[str, Dims] = dims_of(self._session.get_inputs())
        self.output_dims: Mapping[str, Dims] = dims_of(self._session.get_outputs())

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        started = perf_counter()
        with engine_errors():
            values: list[NDArray[np.float32]] = self._session.run(list(outputs), dict(inputs))
        wall_ms = (perf_counter() - started) * 1e3
        return RunResult(dict(zip(outputs, values, strict=True)), self.provider, wall_ms)
