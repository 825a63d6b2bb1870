"""OpenVINO on the CPU, by its own library (extra ``openvino``)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np

from eyeshine.bundle import Bundle
from eyeshine.cache import digest
from eyeshine.engine.cpu import available_cpus
from eyeshine.engine.machine import cpu_name, package_version
from eyeshine.engine.session import Dims, HostSession, RunResult, Tensor, coarser
from eyeshine.errors import EngineError, OptionError
from eyeshine.manifest import GraphInfo, TensorInfo

__all__ = ["InferencePrecision", "OpenVinoOptions", "OpenVinoSession"]

InferencePrecision = Literal["fp32", "bf16", "fp16"]
PROVIDER: Final = "OpenVINO CPU"
_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_NAMES: Final = {hint: name for name, hint in _HINTS.items()}


@dataclass(frozen=True)
class OpenVinoOptions:
    """How OpenVINO runs a graph on the CPU.

    Attributes:
        threads: by default the CPUs that this process may use.
        inference_precision: what it computes in. Always handed over: left alone, OpenVINO takes bf16 by itself on a CPU
            that has it, and says so nowhere.
    """

    threads: int = 0
    inference_precision: InferencePrecision = "fp32"

    engine: ClassVar[str] = "openvino"
    device_type: ClassVar[str] = "cpu"

    def __post_init__(self) -> None:
        if type(self.threads) is not int or self.threads < 0:
            raise OptionError(
                "threads must be a whole number", got=self.threads, allowed="1 and more, or 0 for all CPUs"
            )
        if self.inference_precision not in get_args(InferencePrecision):
            raise OptionError(
                "unknown inference_precision", got=repr(self.inference_precision),
                allowed=", ".join(get_args(InferencePrecision)),
            )  # fmt: skip
        if self.threads == 0:
            object.__setattr__(self, "threads", available_cpus())

    def nearest(self, axis: str, size: int) -> int:
        """``size``: every one runs."""
        return size

    def precision(self, bundle: str) -> str:
        """The coarser of the bundle's and the engine's."""
        return coarser(bundle, self.inference_precision)

    def provider_options(self) -> dict[str, str]:
        """OpenVINO's properties."""
        return {
            "INFERENCE_PRECISION_HINT": _HINTS[self.inference_precision],
            "INFERENCE_NUM_THREADS": str(self.threads),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }

    def metadata(self) -> dict[str, Any]:
        """What a record of a run should say."""
        return {"provider": PROVIDER, **asdict(self)}

    def cache_tag(self, model: str) -> str:
        """Model, CPU, OpenVINO and these options."""
        facts = {**self.metadata(), "model": model, "cpu": cpu_name(), "openvino": package_version("openvino")}
        return f"openvino-{digest(facts)}"

    def check_available(self) -> None:
        """Raise EngineError where the package is not installed."""
        if find_spec("openvino") is None:
            raise EngineError("OpenVINO is not installed", cure="pip install 'eyeshine[openvino]', or openvino alone")

    def open(self, bundle: Bundle, graph: str) -> OpenVinoSession:
        """Load a graph of a bundle."""
        self.check_available()
        return OpenVinoSession(bundle, bundle.graph(graph), self)


class OpenVinoSession(HostSession):
    """One graph on OpenVINO.

    Args:
        bundle: the graph's bundle.
        graph: which graph.
        options: threads and precision.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """

    def __init__(self, bundle: Bundle, graph: GraphInfo, options: OpenVinoOptions) -> None:
        try:
            import openvino

            core = openvino.Core()
            model = core.read_model(bundle.folder / graph.file)
            _separate_shared_weights(model)
            self._compiled = core.compile_model(model, "CPU", options.provider_options())
            computes = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:
            raise EngineError(f"OpenVINO refused {graph.file}", got=str(error)) from error
        if computes != _HINTS[options.inference_precision]:
            raise EngineError(
                "OpenVINO takes another precision on this CPU", got=computes, allowed=options.inference_precision,
                cure=f"ask for inference_precision={_NAMES.get(computes, 'fp32')!r}",
            )  # fmt: skip
        self.provider: str = PROVIDER
        self.input_dims: Mapping[str, Dims] = _dims(self._compiled.inputs, graph.inputs)
        self.output_dims: Mapping[str, Dims] = _dims(self._compiled.outputs, graph.outputs)
        self._own = threading.local()  # an infer request serves one caller at a time

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> RunResult:
        started = perf_counter()
        try:
            if not hasattr(self._own, "request"):
                self._own.request = self._compiled.create_infer_request()
            request = self._own.request
            request.infer(dict(inputs), share_inputs=True)
            # Copies: the request writes over its tensors at the next call.
            values = {name: np.array(request.get_tensor(name).data) for name in outputs}
        except Exception as error:
            raise EngineError("OpenVINO failed to run a graph", got=str(error)) from error
        return RunResult(values, self.provider, (perf_counter() - started) * 1e3)


def _separate_shared_weights(model: Any) -> None:
    """Give every use of a weight its own constant.

    The forward pass and the gradient multiply by the same matrix, one of them transposed. OpenVINO 2026.4 packs a
    constant once and, for a square one, hands the packed copy to both uses: on the embedded bundle the gradient was off
    by 93 % of its largest value, silently, with everything before it right to 1e-6.
    """
    from openvino import op

    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        uses = list(node.output(0).get_target_inputs())
        products = [use for use in uses if use.get_node().get_type_name() == "MatMul"]
        for use in products if len(uses) > 1 else ():
            use.replace_source_output(op.Constant(np.array(node.data)).output(0))


def _dims(ports: Sequence[Any], stated: Mapping[str, TensorInfo]) -> dict[str, Dims]:
    """Dimensions of inputs or outputs; OpenVINO drops the letters of dynamic axes, the manifest has them."""
    result: dict[str, Dims] = {}
    for port in ports:
        name = port.any_name
        found = tuple("?" if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)
        wanted = stated[name].dims if name in stated else ()
        if len(wanted) == len(found):
            pairs = zip(found, wanted, strict=True)
            found = tuple(want if have == "?" and isinstance(want, str) else have for have, want in pairs)
        result[name] = found
    return result
