"""What comes after the graph, alone: signals of one block to heat maps of 0..1, in NumPy, eager torch and Triton.

The loop is how released codes of Grad-ECLIP do it: lambda and map of one prompt after another. All at once is what is
left for torch to do with batched products and with lambda given, as the graph gives it. NumPy and Triton are the
project's: ``relevance``, then ``normalize`` (a plain min-max), one launch each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.eager import grad_eclip_map, synchronize
from benchmarks.gate import Array, Case, Facts
from benchmarks.registry import CaseSpec
from eyeshine_kernels.normalize import NormalizeOptions, normalize
from eyeshine_kernels.relevance import relevance

__all__ = ["Signals", "make"]

_OPTIONS: Final = NormalizeOptions(beta=1, relu=False, epsilon=1e-30)  # as eyeshine.device


@dataclass(frozen=True)
class Signals:
    """Random signals of one block.

    Attributes:
        gradient: [B, P, D].
        query: [B, D], of the class token.
        keys, values: [B, 1 + N, D].
        weights: lambda, [B, N].
    """

    gradient: Any
    query: Any
    keys: Any
    values: Any
    weights: Any

    @classmethod
    def random(cls, images: int, prompts: int, patches: int, width: int) -> Signals:
        """NumPy arrays, float32."""
        random = np.random.default_rng(0)

        def normal(*shape: int) -> NDArray[np.float32]:
            return random.standard_normal(shape, dtype=np.float32)

        tokens = patches + 1
        query, keys = normal(images, width), normal(images, tokens, width)
        cosine = np.einsum("bd,bnd->bn", query, keys[:, 1:]) / np.linalg.norm(keys[:, 1:], axis=-1)
        low, high = cosine.min(-1, keepdims=True), cosine.max(-1, keepdims=True)
        values, gradient = normal(images, tokens, width), normal(images, prompts, width)
        return cls(gradient, query, keys, values, np.asarray((cosine - low) / (high - low), np.float32))

    def to(self, convert: Callable[[Any], Any]) -> Signals:
        """The same of another kind."""
        return Signals(*(convert(getattr(self, name)) for name in ("gradient", "query", "keys", "values", "weights")))


def loop(signals: Signals) -> torch.Tensor:
    """Heat maps [B, P, N] in torch, prompt after prompt."""
    keys, values = signals.keys[:, 1:], signals.values[:, 1:]
    maps = [
        _min_max(grad_eclip_map(signals.gradient[:, prompt], signals.query, keys, values))
        for prompt in range(signals.gradient.shape[1])
    ]
    return torch.stack(maps, dim=1)


def batched(signals: Signals) -> torch.Tensor:
    """Heat maps [B, P, N] in torch, all prompts at once."""
    evidence = F.relu(signals.gradient @ signals.values[:, 1:].transpose(1, 2))
    return _min_max(evidence * signals.weights[:, None])


def ours(signals: Signals, backend: str) -> Any:
    """Heat maps [B, P, N] by the kernels, or by their definitions in NumPy."""
    evidence = relevance(
        signals.gradient[:, :, None], signals.values[:, None], heads=1, options="grad_eclip",
        patch_weights=signals.weights[:, None], backend=backend,  # type: ignore[arg-type]
    )  # fmt: skip
    return normalize(evidence[:, :, 0], options=_OPTIONS, backend=backend)  # type: ignore[arg-type]


def make(spec: CaseSpec, signals: Signals, device: str = "cpu", repeats: int = 1) -> Case:
    """A case of the kind "post".

    Args:
        spec: which of the four.
        signals: NumPy arrays, float32.
        device: torch's name of where it runs; NumPy stays on the host.
        repeats: calls for one time; a GPU is waited for after the last.
    """
    on_host = spec.name == "post-numpy"
    given = signals if on_host else signals.to(lambda array: torch.from_numpy(array).to(device))
    compute: Callable[[Signals], Any] = {
        "post-loop": loop,
        "post-batched": batched,
        "post-numpy": lambda signals: ours(signals, "reference"),
        "post-triton": lambda signals: ours(signals, "triton"),
    }[spec.name]

    def run() -> Any:
        for _ in range(repeats):
            result = compute(given)
        synchronize("cpu" if on_host else device)
        return result

    def probe() -> Mapping[str, Array]:
        result = compute(given)
        return {"maps": result if on_host else result.cpu().numpy()}

    provider = "NumPy" if on_host else f"{'Triton' if spec.name == 'post-triton' else 'torch'} {device}"
    return Case(Facts(spec, provider, repeats=repeats), run, probe, lambda: {"maps": _oracle(signals)})


def _min_max(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    return (maps - low) / (high - low + _OPTIONS.epsilon)


def _oracle(signals: Signals) -> Array:
    """One patch after another, in float64."""
    images, prompts, _ = signals.gradient.shape
    maps = np.zeros((images, prompts, signals.values.shape[1] - 1))
    for image in range(images):
        query, keys = signals.query[image].astype(np.float64), signals.keys[image, 1:].astype(np.float64)
        cosines = np.array([query @ key / np.sqrt(query @ query * (key @ key)) for key in keys])
        weights = (cosines - cosines.min()) / (cosines.max() - cosines.min())
        for prompt in range(prompts):
            gradient = signals.gradient[image, prompt].astype(np.float64)
            values = signals.values[image, 1:].astype(np.float64)
            row = np.array([max(gradient @ value, 0) for value in values]) * weights
            maps[image, prompt] = (row - row.min()) / (row.max() - row.min())
    return maps
