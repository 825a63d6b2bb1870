"""What is measured on a GPU, in order of worth: what the wanted figures are about first, batch 8 and TensorRT last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.registry import CASES

__all__ = ["KERNELS", "PRECISIONS", "Step", "steps"]

PRECISIONS: Final = ("fp16", "fp32")
KERNELS: Final = "kernels"
"""In place of a model's name in the rows of kernels on their own."""

_ENGINE: Final = ("plain", "encode", "explain-1", "explain-10", "explain-100")
_TORCH: Final = ("network", "eager-1", "eager-10")
_CASES: Final = {
    "post": ("post-loop", "post-batched", "post-triton"),
    "large": ("copy", "normalize", "upsample", "overlay"),
    "torch": _TORCH,
    "tensorrt": ("plain", "explain-10"),
}
# Seconds that a step may take, sessions and the gate included; guessed, as no GPU has run them yet. TensorRT builds
# two engines, and the first step of a model exports it.
_SECONDS: Final = {"post": 10.0, "large": 15.0, "torch": 12.0, "tensorrt": 150.0}
_ENGINE_SECONDS: Final = 20.0
_LARGER: Final = {"l14": 2.0}


@dataclass(frozen=True)
class Step:
    """One group of cases.

    Attributes:
        model: short name, or ``KERNELS``.
        group: "post", "large", "torch", or the name of an engine.
        precision: of bundle or network.
        batch: B.
        cases: keys of ``CASES``.
        seconds: what it may take; it is not begun with less time left.
    """

    model: str
    group: str
    precision: str
    batch: int
    cases: tuple[str, ...]
    seconds: float

    def __post_init__(self) -> None:
        assert set(self.cases) <= CASES.keys()

    @property
    def title(self) -> str:
        return f"{self.model}, {self.group}, {self.precision}, batch {self.batch}"


def steps(
    models: Sequence[str], engines: Sequence[str], batches: Sequence[int], precisions: Sequence[str] = PRECISIONS
) -> list[Step]:
    """All steps, each group of cases once, the most worth first.

    Args:
        models: keys of ``MODELS``, in their order of worth.
        engines: groups that run bundles, in their order of worth.
        batches: the first and the last matter most.
        precisions: of networks and bundles.
    """
    ends = [batch for batch in batches if batch in (batches[0], batches[-1])]
    listed = [_kernels("large", 1), *(_kernels("post", batch) for batch in batches)]
    for chosen in (ends, [batch for batch in batches if batch not in ends]):
        for model in models:
            groups = [name for name in engines if name != "tensorrt"]
            groups.insert(1, "torch")
            for precision in precisions:
                listed += [_step(model, group, precision, batch) for group in groups for batch in chosen]
    if "tensorrt" in engines:
        listed += [_step(model, "tensorrt", precisions[0], batch) for model in models for batch in ends]
    return listed


def _kernels(group: str, batch: int) -> Step:
    return Step(KERNELS, group, "fp32", batch, _CASES[group], _SECONDS[group])


def _step(model: str, group: str, precision: str, batch: int) -> Step:
    seconds = _SECONDS.get(group, _ENGINE_SECONDS) * _LARGER.get(model, 1.0)
    return Step(model, group, precision, batch, _CASES.get(group, _ENGINE), seconds)
