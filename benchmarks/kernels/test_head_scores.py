"""head_scores against the eager sequence of torch, after a gate.

``pytest benchmarks/kernels/test_head_scores.py``, on a machine with a GPU with ``-m ""`` for the kernel. Shapes are
the last blocks of B/16 at 224 pixels. On the CPU the definition in NumPy and the eager sequence are timed, the kernel
is not: the interpreter's time means nothing. Not measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from eyeshine_kernels.head_scores import HeadScoreOptions, HeadScores, head_scores

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

HEADS, DEPTH, TOKENS, WIDTH = 12, 64, 197, 512
STRATEGIES = {"heads": HeadScoreOptions(strategy="heads"), "both": HeadScoreOptions()}
HAS_GPU = torch.cuda.is_available()
# B, P: one image and one or 10 prompts; on a GPU batches of 8 and 64, too.
SHAPES = [(1, 1), (1, 10), *([(1, 100), (8, 10), (64, 10)] if HAS_GPU else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp16", "bf16"])


def inputs(strategy: str, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Signals of the candidate blocks where the kernels run; scale [B] and offset [B, K, E] stay float32."""
    generator = torch.Generator().manual_seed(0)
    images, prompts = shape
    blocks, width = STRATEGIES[strategy].candidate_blocks, HEADS * DEPTH

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    signals = {
        "attention": normal(images, blocks, HEADS, TOKENS).softmax(-1),
        "values": normal(images, blocks, TOKENS, width),
        "projection": normal(blocks, width, WIDTH) / width**0.5,
        "text": torch.nn.functional.normalize(normal(prompts, WIDTH), dim=-1),
    }
    extras = {"scale": torch.full((images,), 0.1), "offset": normal(images, blocks, WIDTH) * 1e-3}
    device = "cuda" if HAS_GPU else "cpu"
    return {name: tensor.to(device, dtype) for name, tensor in signals.items()} | {
        name: tensor.to(device) for name, tensor in extras.items()
    }


def eager(named: dict[str, torch.Tensor], options: HeadScoreOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance and indices as a user writes them in torch: three launches per chosen head, and ten before."""
    images, blocks = named["values"].shape[:2]
    per_head = named["values"].view(images, blocks, TOKENS, HEADS, DEPTH).transpose(2, 3)
    mixed = named["attention"][..., None, :] @ per_head
    vectors = (mixed @ named["projection"].view(blocks, HEADS, DEPTH, WIDTH))[..., 0, :].float()
    vectors = vectors * named["scale"][:, None, None, None] + named["offset"][:, :, None]
    vectors = vectors.flatten(1, 2)
    relevance = named["text"].float() @ vectors.mT
    deviation, mean = torch.std_mean(relevance, -1, correction=0, keepdim=True)
    standardised = (relevance - mean) / deviation
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    cosines = unit @ unit.mT
    score, taken = options.head_alpha * standardised, torch.zeros_like(standardised, dtype=torch.bool)
    chosen = []
    for _ in range(options.top):
        chosen.append(score.masked_fill(taken, -torch.inf).argmax(-1, keepdim=True))
        taken.scatter_(-1, chosen[-1], True)
        penalty = cosines.gather(1, chosen[-1].expand_as(score))
        score = options.head_alpha * standardised - options.head_beta * penalty
    return relevance, torch.cat(chosen, -1)


def on_device(call: Callable[[], object]) -> Callable[[], object]:
    """The call and the wait for its end."""

    def waited() -> object:
        result = call()
        if HAS_GPU:
            torch.cuda.synchronize()
        return result

    return waited


def record(benchmark: BenchmarkFixture, named: dict[str, torch.Tensor]) -> None:
    """Say what has to be read at least: each input once; the outputs are small beside them."""
    benchmark.extra_info["least_bytes"] = sum(tensor.nbytes for tensor in named.values())
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if HAS_GPU else "cpu; not measured on a GPU"


def gate(
    relevance: Any, indices: Any, named: dict[str, torch.Tensor], options: HeadScoreOptions, tolerance: float
) -> None:
    """Nothing is timed that is wrong: relevance, and most of the choices, since a near tie may go either way."""
    double: dict[str, Any] = {name: tensor.double().cpu().numpy() for name, tensor in named.items()}
    expected: HeadScores[Any] = head_scores(**double, options=options)
    wanted = expected.relevance.reshape(*expected.indices.shape[:2], -1)
    error = np.abs(np.asarray(torch.as_tensor(relevance).cpu()).reshape(wanted.shape) - wanted).max()
    assert error <= tolerance * np.abs(wanted).max()
    first = np.asarray(torch.as_tensor(indices).cpu())[..., 0]
    assert (first == expected.indices[..., 0]).mean() >= 0.9


@every_strategy
@every_shape
def test_head_scores_reference(benchmark: BenchmarkFixture, strategy: str, shape: tuple[int, int]) -> None:
    """NumPy, float32."""
    named = {name: tensor.cpu() for name, tensor in inputs(strategy, shape, torch.float32).items()}
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in named.items()}
    found: HeadScores[Any] = head_scores(**arrays, options=STRATEGIES[strategy])
    gate(found.relevance, found.indices, named, STRATEGIES[strategy], 1e-5)
    record(benchmark, named)
    benchmark(lambda: head_scores(**arrays, options=STRATEGIES[strategy]))


@every_dtype
@every_strategy
@every_shape
def test_head_scores_eager(
    benchmark: BenchmarkFixture, strategy: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """The eager sequence, on the GPU where there is one."""
    named = inputs(strategy, shape, dtype)
    # Its half-precision products are rounded before they are projected: a yardstick of time, not of accuracy.
    gate(*eager(named, STRATEGIES[strategy]), named, STRATEGIES[strategy], 2e-2)
    record(benchmark, named)
    benchmark(on_device(lambda: eager(named, STRATEGIES[strategy])))


@pytest.mark.gpu
@every_dtype
@every_strategy
@every_shape
def test_head_scores_copy(
    benchmark: BenchmarkFixture, strategy: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """A copy of the inputs: the bandwidth to compare with."""
    named = inputs(strategy, shape, dtype)
    record(benchmark, named)
    source = torch.cat([tensor.flatten().view(torch.uint8) for tensor in named.values()])
    target = torch.empty_like(source)
    benchmark(on_device(lambda: target.copy_(source)))


@pytest.mark.gpu
@every_dtype
@every_strategy
@every_shape
def test_head_scores_triton(
    benchmark: BenchmarkFixture, strategy: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """The kernel."""
    named, options = inputs(strategy, shape, dtype), STRATEGIES[strategy]
    found = head_scores(**named, options=options, backend="triton")
    gate(found.relevance, found.indices, named, options, 1e-5)
    record(benchmark, named)
    benchmark(on_device(lambda: head_scores(**named, options=options, backend="triton")))
