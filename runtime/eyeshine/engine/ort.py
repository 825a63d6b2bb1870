"""What the engines of onnxruntime share: opening a graph on the provider that was asked for, and I/O binding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from eyeshine.engine.session import DeviceArray, DeviceResult, Dims, RunResult, Tensor
from eyeshine.errors import EngineError, EyeshineError, OptionError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["BoundSession", "Provider", "check_capture", "dims_of", "engine_errors", "open_ort", "provider_missing"]

_CPU = "CPUExecutionProvider"
_ARITHMETIC = {
    "Attention", "Conv", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "Erf", "FusedGemm", "FusedMatMul", "Gelu",
    "Gemm", "LayerNormalization", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "QuickGelu", "Softmax",
}  # fmt: skip
_WHEEL = "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]' (the two share one folder)"


@dataclass(frozen=True)
class Provider:
    """One entry of onnxruntime's list of providers, and where its tensors live.

    Attributes:
        name: onnxruntime's name.
        options: of the provider.
        device: "cpu" or "cuda".
        device_id: which GPU.
    """

    name: str
    options: Mapping[str, str]
    device: str = "cpu"
    device_id: int = 0


def provider_missing(name: str) -> EngineError | None:
    """Why the installed onnxruntime was not built with a provider, or None where it was."""
    import onnxruntime

    if name in onnxruntime.get_available_providers():
        return None
    return EngineError(
        f"the installed onnxruntime has no {name}",
        got=f"onnxruntime {onnxruntime.__version__} with {', '.join(onnxruntime.get_available_providers())}",
        cure=_WHEEL,
    )


def open_ort(
    path: Path, options: onnxruntime.SessionOptions, providers: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    """Open a graph on the first of ``providers``; the others take what it cannot run.

    Raises:
        EngineError: onnxruntime refuses the graph, it dropped the first provider (it only logs that), or it put other
            than shape arithmetic elsewhere.
    """
    import onnxruntime

    first = providers[0].name
    if first != _CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        # Without its own fallback, which prints, builds the graph again on another provider and drops the reason.
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=[(p.name, dict(p.options)) for p in providers], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors have no common root but Exception
        raise EngineError(f"onnxruntime refused {path.name} on {first}", got=str(error)) from error
    if session.get_providers()[0] != first:
        raise EngineError(
            f"onnxruntime could not start {first} and fell back to {session.get_providers()[0]}",
            cure="eyeshine doctor says what is missing; onnxruntime's own message is above",
        )
    if first != _CPU:
        _check_places(session, first, path.name)
    return session


def _check_places(session: onnxruntime.InferenceSession, first: str, graph: str) -> None:
    """Raise EngineError where a provider that was asked for runs nothing, or arithmetic is left to the CPU."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # onnxruntime before 1.24
        return
    parts = session.get_provider_graph_assignment_info()
    if not any(part.ep_name == first for part in parts):
        raise EngineError(f"{first} takes no part of {graph}", got="all of it runs elsewhere")
    left = {node.op_type for part in parts if part.ep_name == _CPU for node in part.get_nodes()} & _ARITHMETIC
    if left:
        raise EngineError(
            f"{first} leaves arithmetic of {graph} to the CPU", got=", ".join(sorted(left)),
            cure="export the bundle in another precision, or use the CPU",
        )  # fmt: skip


def check_capture(capture: object) -> None:
    """Raise OptionError unless ``capture`` is None or (images, texts), each 1 or more."""
    fits = isinstance(capture, tuple) and len(capture) == 2
    if capture is not None and not (fits and all(type(n) is int and n > 0 for n in capture)):  # type: ignore[attr-defined]
        raise OptionError("capture must be two sizes", got=repr(capture), allowed="(images, texts), each 1 or more")


def dims_of(nodes: Sequence[Any]) -> dict[str, Dims]:
    """Names and dimensions of inputs or outputs."""
    return {node.name: tuple(node.shape) for node in nodes}


class BoundSession:
    """One graph with its outputs bound to the device that computes them; every size runs, from any thread.

    Args:
        session: an open session.
        provider: where its tensors live.
    """

    def __init__(self, session: onnxruntime.InferenceSession, provider: Provider) -> None:
        self._session, self._place = session, provider
        self.provider = provider.name
        self.input_dims: Mapping[str, Dims] = dims_of(session.get_inputs())
        self.output_dims: Mapping[str, Dims] = dims_of(session.get_outputs())

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        started = perf_counter()
        with engine_errors():
            host = {name: value.numpy() for name, value in self._run(inputs, outputs).items()}
        return RunResult(host, self.provider, (perf_counter() - started) * 1e3)

    def run_on_device(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> DeviceResult:
        started = perf_counter()
        with engine_errors():
            values: dict[str, DeviceArray] = dict(self._run(inputs, outputs))
        return DeviceResult(values, self.provider, (perf_counter() - started) * 1e3)

    def hold(self) -> AbstractContextManager[None]:
        """Nothing to hold: every run has outputs of its own."""
        return nullcontext()

    def _run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Any]:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name, self._place.device, self._place.device_id)
        self._session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=True))


@contextmanager
def engine_errors() -> Iterator[None]:
    """What onnxruntime raises becomes an EngineError; errors of a GPU also surface where its results are copied."""
    try:
        yield
    except EyeshineError:
        raise
    except Exception as error:
        raise EngineError("onnxruntime failed to run a graph", got=str(error)) from error
