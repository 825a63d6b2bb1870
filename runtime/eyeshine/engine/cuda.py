"""onnxruntime on an NVIDIA GPU, by its CUDA provider."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from eyeshine.bundle import Bundle
from eyeshine.cache import digest
from eyeshine.engine.captured import CapturedSession
from eyeshine.engine.machine import Gpu, gpus, package_version
from eyeshine.engine.ort import BoundSession, Provider, check_capture, open_ort, provider_missing
from eyeshine.errors import EngineError, OptionError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["CudaOptions", "captured", "check_gpu", "gpu_facts", "gpu_session_options"]

PROVIDER = "CUDAExecutionProvider"


@dataclass(frozen=True)
class CudaOptions:
    """How onnxruntime's CUDA provider runs a graph.

    Attributes:
        device: index of the GPU.
        capture: (images, texts) to capture a CUDA graph for: launches then cost one, and no other size runs. None
            runs every size.
        tf32: let products of float32 matrices round their inputs to 10 bits. Off: onnxruntime has it on by default,
            and a map of an fp32 bundle then differs from the one on the CPU.
        memory_limit_mb: most GPU memory for onnxruntime's arena, in MB; None for no limit.
    """

    device: int = 0
    capture: tuple[int, int] | None = None
    tf32: bool = False
    memory_limit_mb: int | None = None

    engine: ClassVar[str] = "cuda"
    device_type: ClassVar[str] = "cuda"

    def __post_init__(self) -> None:
        check_gpu_index(self.device)
        check_capture(self.capture)
        limit = self.memory_limit_mb
        if limit is not None and (type(limit) is not int or limit < 1):
            raise OptionError("memory_limit_mb must be a whole number", got=repr(limit), allowed="1 and more, or None")

    @property
    def shapes(self) -> Mapping[str, int]:
        """The captured sizes of the axes B and P."""
        return captured(self.capture)

    def nearest(self, axis: str, size: int) -> int:
        """The captured size; without capture every one runs."""
        return self.shapes.get(axis, size)

    def precision(self, bundle: str) -> str:
        """The bundle's own, or tf32."""
        return "tf32" if self.tf32 and bundle == "fp32" else bundle

    def provider_options(self) -> dict[str, str]:
        """For onnxruntime's CUDA provider."""
        options = {
            "device_id": str(self.device),
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(self.capture is not None)),
            # The arena grows by what is asked for, not to the next power of two: a GPU in a car is shared.
            "arena_extend_strategy": "kSameAsRequested",
        }
        if self.memory_limit_mb is not None:
            options["gpu_mem_limit"] = str(self.memory_limit_mb * 2**20)
        return options

    def metadata(self) -> dict[str, Any]:
        """What a record of a run should say."""
        return {"provider": PROVIDER, "device": self.device, "tf32": self.tf32, "capture": self.capture}

    def cache_tag(self, model: str) -> str:
        """Model, GPU, driver, onnxruntime and these options."""
        facts = {**asdict(self), "model": model, **gpu_facts(self.device)}
        return f"cuda-{digest(facts)}"

    def check_available(self) -> None:
        """Raise EngineError where onnxruntime lacks CUDA, or there is no such GPU."""
        missing = provider_missing(PROVIDER)
        if missing is not None:
            raise missing
        check_gpu(self.device)

    def provider(self, *, capture: bool) -> Provider:
        """The provider for a graph; not every graph of a captured bundle is captured."""
        options = self.provider_options() | ({} if capture else {"enable_cuda_graph": "0"})
        return Provider(PROVIDER, options, "cuda", self.device)

    def open(self, bundle: Bundle, graph: str) -> BoundSession | CapturedSession:
        """Load a graph of a bundle.

        Raises:
            EngineError: an int8 bundle, whose integer products the provider leaves to the CPU, or as ``open_ort``.
        """
        if bundle.manifest.precision == "int8":
            raise EngineError(
                "int8 bundles are for the CPU", got=f"bundle {bundle.name} on {PROVIDER}",
                cure="eyeshine export ... --precision fp16",
            )  # fmt: skip
        info = bundle.graph(graph)
        shapes = self.shapes if "pixels" in info.inputs else {}
        provider = self.provider(capture=bool(shapes))
        session = open_ort(bundle.folder / info.file, gpu_session_options(), [provider])
        return CapturedSession(session, provider, shapes) if shapes else BoundSession(session, provider)


def check_gpu_index(device: object) -> None:
    """Raise OptionError unless ``device`` can be the index of a GPU."""
    if type(device) is not int or device < 0:
        raise OptionError("device must be the index of a GPU", got=repr(device), allowed="0 and more")


def captured(capture: tuple[int, int] | None) -> dict[str, int]:
    """Sizes of the dynamic axes of the graphs from pixels."""
    return {} if capture is None else dict(zip("BP", capture, strict=True))


def check_gpu(device: int) -> Gpu:
    """The GPU of an index.

    Raises:
        EngineError: no driver, or no such GPU.
    """
    found = gpus()
    if device >= len(found):
        raise EngineError("no such GPU", got=device, allowed=f"0..{len(found) - 1}")
    return found[device]


def gpu_facts(device: int) -> dict[str, Any]:
    """What decides whether something that was built for a GPU fits this machine."""
    gpu = check_gpu(device)
    return {
        "gpu": gpu.name,
        "sm": gpu.sm,
        "driver": gpu.driver,
        "onnxruntime": package_version("onnxruntime-gpu", "onnxruntime"),
        # They are upgraded by themselves, and compute the numbers.
        "libraries": [package_version(f"nvidia-{name}-cu13", f"nvidia-{name}") for name in ("cudnn", "cublas")],
        "tf32": os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
    }


def gpu_session_options() -> onnxruntime.SessionOptions:
    """For sessions that leave the CPU little to do. onnxruntime's libraries from wheels are found first."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options
