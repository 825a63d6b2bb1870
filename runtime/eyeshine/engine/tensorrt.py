"""TensorRT through onnxruntime's TensorRT provider: engines are built ahead, kept by ``cache_tag``, and gated."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

from eyeshine.bundle import Bundle
from eyeshine.cache import cache_folder, digest
from eyeshine.engine.captured import CapturedSession
from eyeshine.engine.cuda import CudaOptions, captured, check_gpu, check_gpu_index, gpu_facts, gpu_session_options
from eyeshine.engine.ort import BoundSession, Provider, check_capture, open_ort, provider_missing
from eyeshine.engine.session import coarser
from eyeshine.errors import EngineError, OptionError, OutputError

__all__ = ["EnginePrecision", "TensorRtOptions"]

EnginePrecision = Literal["fp32", "fp16", "bf16"]
PROVIDER: Final = "TensorrtExecutionProvider"
_LIBRARY: Final = "libnvinfer.so.10"
_PARSER: Final = "libnvonnxparser.so.10"  # onnxruntime's provider needs both
_WHEEL: Final = "pip install tensorrt-cu13==10.16.1.11 (onnxruntime-gpu 1.31 is built for TensorRT 10)"
_MARK: Final = "built.json"


@dataclass(frozen=True)
class TensorRtOptions:
    """How TensorRT runs a graph.

    Attributes:
        device: index of the GPU.
        arithmetic: what layers may compute in; None takes the bundle's precision.
        images: (least, usual, most) images of a call; kernels are chosen for the usual size.
        texts: (least, usual, most) texts of a call.
        capture: (images, texts) to capture a CUDA graph for; the profile is then that one size.
        optimization_level: of the builder, 0..5; higher builds longer.
        workspace_mb: most GPU memory that a kernel may take while it runs, in MB.
        folder: where engines are kept; None is ``cache_folder()/tensorrt``.
        build: build what is missing when a graph is loaded. Off: a missing engine is an error that names the command,
            because building takes minutes and does not belong on a hot path.
    """

    device: int = 0
    arithmetic: EnginePrecision | None = None
    images: tuple[int, int, int] = (1, 1, 8)
    texts: tuple[int, int, int] = (1, 10, 100)
    capture: tuple[int, int] | None = None
    optimization_level: int = 3
    workspace_mb: int = 1024
    folder: Path | None = None
    build: bool = False

    engine: ClassVar[str] = "tensorrt"
    device_type: ClassVar[str] = "cuda"

    def __post_init__(self) -> None:
        check_gpu_index(self.device)
        check_capture(self.capture)
        if self.arithmetic is not None and self.arithmetic not in get_args(EnginePrecision):
            allowed = ", ".join(get_args(EnginePrecision))
            raise OptionError("unknown arithmetic", got=repr(self.arithmetic), allowed=f"{allowed}, or None")
        for name in ("images", "texts"):
            _check_profile(name, getattr(self, name))
        for name, most in (("optimization_level", 5), ("workspace_mb", 2**20)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= most:
                raise OptionError(f"{name} outside its range", got=repr(value), allowed=f"0..{most}")

    @property
    def shapes(self) -> Mapping[str, int]:
        """The captured sizes of the axes B and P."""
        return captured(self.capture)

    def arithmetic_of(self, bundle: str) -> str:
        """The coarser of the bundle's precision and the asked one."""
        return coarser(bundle, self.arithmetic or bundle)

    def precision(self, bundle: str) -> str:
        """As ``arithmetic_of``, but tf32 for fp32: TensorRT 10 rounds its products, and the provider has no switch."""
        found = self.arithmetic_of(bundle)
        return "tf32" if found == "fp32" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0" else found

    def nearest(self, axis: str, size: int) -> int:
        """The nearest size of an axis inside the profile."""
        least, _, most = self.profile().get(axis, (size, size, size))
        return min(max(size, least), most)

    def profile(self) -> dict[str, tuple[int, int, int]]:
        """(Least, usual, most) of the dynamic axes B and P."""
        if self.capture is not None:
            return {axis: (size, size, size) for axis, size in self.shapes.items()}
        return {"B": self.images, "P": self.texts}

    def provider_options(self) -> dict[str, str]:
        """For onnxruntime's TensorRT provider, without precision, profile and folders, which ``for_graph`` adds."""
        return {
            "device_id": str(self.device),
            "trt_max_workspace_size": str(self.workspace_mb * 2**20),
            "trt_builder_optimization_level": str(self.optimization_level),
            "trt_engine_cache_enable": "True",  # the provider reads True and False, where CUDA's reads 1 and 0
            "trt_timing_cache_enable": "True",
            "trt_cuda_graph_enable": str(self.capture is not None),
        }

    def metadata(self) -> dict[str, Any]:
        """What a record of a run should say."""
        facts = {"device": self.device, "arithmetic": self.arithmetic, "profile": self.profile()}
        return {"provider": PROVIDER, **facts, "capture": self.capture}

    def cache_tag(self, model: str) -> str:
        """Model, GPU, driver, onnxruntime, TensorRT, precision and shapes: an engine fits nothing else."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("folder", "build")}
        return f"tensorrt-{digest({**kept, 'model': model, **gpu_facts(self.device), 'tensorrt': _version()})}"

    def check_available(self) -> None:
        """Raise EngineError where onnxruntime or TensorRT's library is missing, or there is no such GPU."""
        missing = provider_missing(PROVIDER)
        if missing is not None:
            raise missing
        check_gpu(self.device)
        load_library()

    def cache(self, bundle: Bundle, graph: str) -> Path:
        """The folder of a graph's engine."""
        return (self.folder or cache_folder() / "tensorrt") / self.cache_tag(bundle.hash) / graph

    def built(self, bundle: Bundle, graph: str) -> bool:
        """Whether the engine of a graph was built, and passed its gate, on this machine, and is still there."""
        folder = self.cache(bundle, graph)
        return (folder / _MARK).is_file() and any(folder.glob("*.engine"))

    def mark_built(self, bundle: Bundle, graph: str, facts: Mapping[str, Any]) -> None:
        """Write down that an engine is finished; an interrupted build leaves no mark and is built again.

        Raises:
            EngineError: TensorRT left no engine behind.
        """
        if not any(self.cache(bundle, graph).glob("*.engine")):
            raise EngineError("TensorRT built nothing", got=f"graph {graph} of bundle {bundle.name}")
        (self.cache(bundle, graph) / _MARK).write_text(json.dumps(dict(facts), indent=1) + "\n", "utf-8")

    def for_graph(self, bundle: Bundle, graph: str) -> dict[str, str]:
        """All provider options of one graph.

        Raises:
            EngineError: an int8 bundle: it quantises as it runs, for which TensorRT has no operator.
        """
        stated = bundle.manifest.precision
        if stated == "int8":
            raise EngineError(
                "TensorRT has no operator for dynamic quantisation", got=f"bundle {bundle.name} in int8",
                cure="eyeshine export ... --precision fp16",
            )  # fmt: skip
        chosen, folder = self.arithmetic_of(stated), self.cache(bundle, graph)
        options = self.provider_options() | {
            "trt_fp16_enable": str(chosen == "fp16"),
            "trt_bf16_enable": str(chosen == "bf16"),
            # Variances of ViT residual streams leave fp16's range.
            "trt_layer_norm_fp32_fallback": str(chosen == "fp16"),
            "trt_engine_cache_path": str(folder),
            "trt_engine_cache_prefix": graph,
            # Tactics are timed once per GPU, whatever the model.
            "trt_timing_cache_path": str(folder.parent.parent),
        }
        if "pixels" not in bundle.graph(graph).inputs:
            options["trt_cuda_graph_enable"] = "False"
        for index, bound in enumerate(("min", "opt", "max")):
            options[f"trt_profile_{bound}_shapes"] = self._shapes(bundle, graph, index)
        return options

    def _shapes(self, bundle: Bundle, graph: str, index: int) -> str:
        """One end of the profile as onnxruntime reads it, ``pixels:1x3x224x224,text:1x512``."""
        if bundle.any_size(graph):
            raise EngineError(
                "TensorRT's engines are built for one size of image", got=f"graph {graph}", cure="provider cuda or cpu"
            )
        context = bundle.manifest.tokenizer.context_length
        sizes = {**self.profile(), "L": (1, min(16, context), context)}
        if "pixels" not in bundle.graph(graph).inputs:
            sizes["P"] = (1, 1, self.texts[2])  # texts are encoded by their length, with templates, and cached
        inputs = bundle.graph(graph).inputs
        return ",".join(
            f"{name}:{'x'.join(str(sizes[dim][index] if isinstance(dim, str) else dim) for dim in tensor.dims)}"
            for name, tensor in inputs.items()
        )

    def open(self, bundle: Bundle, graph: str) -> BoundSession | CapturedSession:
        """Load a graph's engine.

        Raises:
            EngineError: not built ahead and ``build`` is off, or TensorRT or onnxruntime refuses it.
        """
        options, folder = self.for_graph(bundle, graph), self.cache(bundle, graph)
        if not self.build and not self.built(bundle, graph):
            raise EngineError(
                "TensorRT's engine was not built", got=f"graph {graph} of bundle {bundle.name}",
                cure="eyeshine build-engine BUNDLE with the same options, or TensorRtOptions(build=True)",
            )  # fmt: skip
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError("folder for engines cannot be written", got=str(error)) from error
        load_library()
        info = bundle.graph(graph)
        first = Provider(PROVIDER, options, "cuda", self.device)
        # What TensorRT declines (shape arithmetic) stays on the GPU.
        second = CudaOptions(self.device).provider(capture=False)
        session = open_ort(bundle.folder / info.file, gpu_session_options(), [first, second])
        shapes = self.shapes if "pixels" in info.inputs else {}
        return CapturedSession(session, first, shapes) if shapes else BoundSession(session, first)


def load_library() -> None:
    """Load TensorRT where onnxruntime's provider will look for it: the system's, else that of NVIDIA's wheel.

    Raises:
        EngineError: neither is there.
    """
    gpu_session_options()  # loads the CUDA libraries of wheels, which TensorRT links to
    spec = find_spec("tensorrt_libs")
    wheel = Path(spec.origin).parent if spec is not None and spec.origin else None
    tried: list[str] = []
    for folder in ("", *([f"{wheel}/"] if wheel else [])):
        try:
            for library in (_LIBRARY, _PARSER):
                ctypes.CDLL(folder + library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            tried.append(str(error))
        else:
            return
    raise EngineError("TensorRT is not installed", got="; ".join(tried), cure=_WHEEL)


def _version() -> str:
    """TensorRT's version as its library says it (getInferLibVersion), 101601 for 10.16.1."""
    load_library()
    return str(ctypes.CDLL(_LIBRARY).getInferLibVersion())


def _check_profile(name: str, sizes: object) -> None:
    fits = isinstance(sizes, tuple) and len(sizes) == 3 and all(type(n) is int for n in sizes)
    if not (fits and 1 <= sizes[0] <= sizes[1] <= sizes[2]):  # type: ignore[index]
        raise OptionError(
            f"{name} must be (least, usual, most)", got=repr(sizes), allowed="1 <= least <= usual <= most"
        )
