"""One graph for one size, at fixed addresses: what CUDA graph capture needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from eyeshine.engine.ort import Provider, dims_of, engine_errors
from eyeshine.engine.session import DeviceArray, DeviceResult, Dims, RunResult, Tensor
from eyeshine.errors import EngineError, InputError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["CapturedSession"]

T = TypeVar("T")

_NUMPY: Final = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}


class CapturedSession:
    """Runs one size alone; inputs and outputs keep their addresses, so that a CUDA graph can be replayed on them.

    onnxruntime captures a graph per calling thread, and a capture fails where another thread uses the GPU in it: so all
    runs happen on one thread of the session's own, and the first one, which captures, when it is opened.

    Args:
        session: an open session.
        provider: where its tensors live.
        shapes: sizes of the dynamic axes.

    Raises:
        EngineError: a tensor of a type that is not known or with an axis that ``shapes`` does not name, no memory, or
            the first run failed.
    """

    def __init__(self, session: onnxruntime.InferenceSession, provider: Provider, shapes: Mapping[str, int]) -> None:
        self._session, self._shapes = session, shapes
        self.provider = provider.name
        self.input_dims: Mapping[str, Dims] = dims_of(session.get_inputs())
        self.output_dims: Mapping[str, Dims] = dims_of(session.get_outputs())
        self._lock = threading.RLock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="eyeshine-captured")
        with engine_errors():
            self._inputs = self._buffers(session.get_inputs(), provider)
            self._outputs = self._buffers(session.get_outputs(), provider)
            self._binding = session.io_binding()
            for name, value in self._inputs.items():
                self._binding.bind_ortvalue_input(name, value)
            for name, value in self._outputs.items():
                self._binding.bind_ortvalue_output(name, value)
            first = {name: np.ones(value.shape(), value.numpy().dtype) for name, value in self._inputs.items()}
            self._replay(first)

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        started = perf_counter()
        with self._lock, engine_errors():
            self._replay(inputs)
            # On the CPU provider numpy() is a view of the buffer that the next run writes to.
            host = self._alone(lambda: {name: np.array(self._outputs[name].numpy()) for name in outputs})
        return RunResult(host, self.provider, (perf_counter() - started) * 1e3)

    def run_on_device(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> DeviceResult:
        started = perf_counter()
        with self._lock, engine_errors():
            self._replay(inputs)
        values: dict[str, DeviceArray] = {name: self._outputs[name] for name in outputs}
        return DeviceResult(values, self.provider, (perf_counter() - started) * 1e3)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other threads from running, and so from writing over the outputs of the last ``run_on_device``."""
        with self._lock:
            yield

    def _replay(self, inputs: Mapping[str, Tensor]) -> None:
        for name, buffer in self._inputs.items():
            if list(inputs[name].shape) != list(buffer.shape()):
                fixed = ", ".join(f"{axis}={size}" for axis, size in self._shapes.items())
                raise InputError(
                    "captured for other sizes", got=f"{name} {list(inputs[name].shape)}",
                    allowed=f"{list(buffer.shape())} ({fixed})",
                    cure="load with capture=(images, texts) of this size, or without capture",
                )  # fmt: skip

        def replay() -> None:
            for name, buffer in self._inputs.items():
                buffer.update_inplace(np.ascontiguousarray(inputs[name]))
            self._session.run_with_iobinding(self._binding)

        self._alone(replay)

    def _alone(self, work: Callable[[], T]) -> T:
        """The work, on the session's own thread."""
        return self._thread.submit(work).result()

    def _buffers(self, nodes: Sequence[Any], provider: Provider) -> dict[str, onnxruntime.OrtValue]:
        """One tensor for each input or output; they are allocated beside the provider's arena and its limit."""
        import onnxruntime

        buffers = {}
        for node in nodes:
            if node.type not in _NUMPY:
                raise EngineError("a tensor of this type cannot be captured", got=f"{node.name}: {node.type}")
            free = [dim for dim in node.shape if isinstance(dim, str) and dim not in self._shapes]
            if free:
                raise EngineError(
                    "a captured graph runs one size", got=f"{node.name} of any {', '.join(free)}",
                    cure="load without capture",
                )  # fmt: skip
            sizes = [self._shapes[dim] if isinstance(dim, str) else dim for dim in node.shape]
            buffers[node.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                sizes, _NUMPY[node.type], provider.device, provider.device_id
            )
        return buffers
