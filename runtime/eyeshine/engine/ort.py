"""What the engines of onnxruntime share: opening a graph on the provider that was asked for, and I/O binding."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from eyeshine.engine.session import DeviceArray, DeviceResult, Dims, RunResult, Tensor
from eyeshine.errors import EngineError, InputError, OptionError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["BoundSession", "Provider", "check_capture", "dims_of", "open_ort", "provider_missing"]

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
        EngineError: onnxruntime refuses the graph, or it dropped the first provider (it only logs that).
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=[(p.name, dict(p.options)) for p in providers]
        )
    except Exception as error:  # onnxruntime's errors have no common root but Exception
        raise EngineError(f"onnxruntime refused {path.name}", got=str(error)) from error
    session.disable_fallback()
    if session.get_providers()[0] != providers[0].name:
        raise EngineError(
            f"onnxruntime could not start {providers[0].name} and fell back to {session.get_providers()[0]}",
            cure="eyeshine doctor says what is missing; onnxruntime's own message is above",
        )
    return session


def check_capture(capture: object) -> None:
    """Raise OptionError unless ``capture`` is None or (images, texts), each 1 or more."""
    fits = isinstance(capture, tuple) and len(capture) == 2
    if capture is not None and not (fits and all(type(n) is int and n > 0 for n in capture)):  # type: ignore[attr-defined]
        raise OptionError("capture must be two sizes", got=repr(capture), allowed="(images, texts), each 1 or more")


def dims_of(nodes: Sequence[Any]) -> dict[str, Dims]:
    """Names and dimensions of inputs or outputs."""
    return {node.name: tuple(node.shape) for node in nodes}


class BoundSession:
    """One graph with its outputs bound to the device that computes them.

    Args:
        session: an open session.
        provider: where its tensors live.
        shapes: sizes of the dynamic axes. With them, inputs and outputs have fixed addresses, which CUDA graph capture
            needs, and every other size is refused; calls from several threads then wait for each other.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, provider: Provider, shapes: Mapping[str, int] | None = None
    ) -> None:
        self._session, self._place = session, provider
        self.provider = provider.name
        self.input_dims: Mapping[str, Dims] = dims_of(session.get_inputs())
        self.output_dims: Mapping[str, Dims] = dims_of(session.get_outputs())
        self._lock = threading.Lock()
        self._fixed = _FixedBuffers(session, provider, self.input_dims, self.output_dims, shapes) if shapes else None

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        started = perf_counter()
        if self._fixed is None:
            values = self._run(inputs, outputs)
            host = {name: value.numpy() for name, value in values.items()}
        else:
            with self._lock:
                values = self._run(inputs, outputs)
                # On the CPU provider numpy() is a view of the buffer that the next run writes to.
                host = {name: np.array(value.numpy()) for name, value in values.items()}
        return RunResult(host, self.provider, (perf_counter() - started) * 1e3)

    def run_on_device(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> DeviceResult:
        started = perf_counter()
        with self._lock if self._fixed else nullcontext():
            values: dict[str, DeviceArray] = dict(self._run(inputs, outputs))
        return DeviceResult(values, self.provider, (perf_counter() - started) * 1e3)

    def _run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Any]:
        try:
            if self._fixed is not None:
                return self._fixed.run(inputs, outputs)
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in outputs:
                binding.bind_output(name, self._place.device, self._place.device_id)
            self._session.run_with_iobinding(binding)
            return dict(zip(outputs, binding.get_outputs(), strict=True))
        except InputError:
            raise
        except Exception as error:
            raise EngineError("onnxruntime failed to run a graph", got=str(error)) from error


class _FixedBuffers:
    """Inputs and outputs of one shape at fixed addresses."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        provider: Provider,
        input_dims: Mapping[str, Dims],
        output_dims: Mapping[str, Dims],
        shapes: Mapping[str, int],
    ) -> None:
        self._session, self._shapes = session, shapes
        types = {node.name: _NUMPY[node.type] for node in (*session.get_inputs(), *session.get_outputs())}

        def allocate(dims: Mapping[str, Dims]) -> dict[str, onnxruntime.OrtValue]:
            import onnxruntime

            return {
                name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    [shapes[dim] if isinstance(dim, str) else dim for dim in sizes],
                    types[name],
                    provider.device,
                    provider.device_id,
                )
                for name, sizes in dims.items()
            }

        self._inputs, self._outputs = allocate(input_dims), allocate(output_dims)
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Any]:
        for name, buffer in self._inputs.items():
            if list(inputs[name].shape) != list(buffer.shape()):
                fixed = ", ".join(f"{axis}={size}" for axis, size in self._shapes.items())
                raise InputError(
                    "captured for other sizes", got=f"{name} {list(inputs[name].shape)}",
                    allowed=f"{list(buffer.shape())} ({fixed})",
                    cure="load with capture=(images, texts) of this size, or without capture",
                )  # fmt: skip
        for name, buffer in self._inputs.items():
            buffer.update_inplace(np.ascontiguousarray(inputs[name]))
        self._session.run_with_iobinding(self._binding)
        return {name: self._outputs[name] for name in outputs}


_NUMPY = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}
