"""Which heads speak about a text: contributions of heads to the joint space, their scores and the greedy choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import Backend, KernelError, check_kind, resolve
from eyeshine_kernels.head_scores.options import HeadScoreOptions, HeadScores, Penalty, Strategy
from eyeshine_kernels.head_scores.reference import head_scores_reference

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeadScoreOptions", "HeadScores", "Penalty", "Strategy", "head_scores", "head_scores_reference"]

Array = NDArray[np.floating]
T = TypeVar("T", bound="Array | Tensor")

_DEFAULT: Final = HeadScoreOptions()


def head_scores(
    attention: T,
    values: T,
    projection: T,
    text: T,
    *,
    options: HeadScoreOptions = _DEFAULT,
    scale: T | None = None,
    offset: T | None = None,
    backend: Backend | None = None,
) -> HeadScores[T]:
    """``HeadScore = head_alpha * z(<c_h, t^>) - head_beta * penalty``, and the heads that it chooses one by one.

    ``c_h = scale * (sum_i A_h[i] V_{h,i}) M_h + offset`` is what head h writes into the joint space along the direct
    path (Gandelsman et al., ICLR 2024), with LayerNorm's statistics frozen; tokens are summed before the projection,
    so that no [B, K, H, T, E] ever exists. z is the z-score over all candidate heads of an image and prompt, because
    shares of a cosine (around 0.02) are no match for a penalty, itself a cosine of contributions, of up to 1. Source:
    Concept Attribution, eq. 1 to 3 and section III-E.

    Args:
        attention: A, [B, K, H, T], rows of the class token over all T tokens, itself included; B images, K blocks,
            T at least 1; B may be 0.
        values: V, [B, K, T, D], heads concatenated.
        projection: M, [K, D, E], a constant of the model: row d of block k is what channel d of the heads' output adds
            to the embedding, W_o[:, d] (times LayerScale), its mean removed or not, times gamma of LN_post, times P.
        text: t^, [P, E], unit vectors; P may be 0.
        options: candidates (heads of the last K' blocks), weights, penalty, how many are chosen.
        scale: [B], 1 / (sigma |e|) of each image: sigma is LN_post's deviation at the class token, e the embedding
            before it is normalised; 1 where absent. It is the same for all heads, which changes neither z-scores nor,
            without an offset, cosines.
        offset: [B, K, E], what every head of a block gets on top (shares of biases, of LN_post's mean); 0 where absent.
        backend: "reference" takes and returns NumPy arrays; "triton" contiguous torch tensors of fp32, fp16 or bf16,
            all on one device, and stays there without waiting for it. None is "reference".

    Returns:
        ``HeadScores`` of the inputs' kind, float32 (float64 where the reference gets float64).

    Raises:
        KernelError: a backend that cannot run, arrays of another kind, shape, dtype, device or layout, fewer blocks or
            heads than the options ask for, or, on "triton", more than 256 candidates.
    """
    chosen = resolve(backend)
    named: dict[str, Any] = {"attention": attention, "values": values, "projection": projection, "text": text}
    named |= {name: entry for name, entry in (("scale", scale), ("offset", offset)) if entry is not None}
    check_kind(named, chosen)
    _check_shapes({name: tuple(entry.shape) for name, entry in named.items()}, options)
    if chosen == "reference":
        return head_scores_reference(**named, options=options)  # type: ignore[return-value]
    from eyeshine_kernels.head_scores.kernel import launch

    return launch(**named, options=options)  # type: ignore[return-value]


def _check_shapes(shapes: dict[str, tuple[int, ...]], options: HeadScoreOptions) -> None:
    axes = {"attention": "[B, K, H, T]", "values": "[B, K, T, D]", "projection": "[K, D, E]", "text": "[P, E]"}
    for name, allowed in axes.items():
        if len(shapes[name]) != allowed.count(",") + 1:
            raise KernelError(f"{name}: got {shapes[name]}, allowed {allowed}")
    images, blocks, heads, tokens = shapes["attention"]
    depth, width = shapes["values"][3], shapes["text"][1]
    if tokens < 1 or heads < 1:
        raise KernelError(f"attention: got {shapes['attention']}, allowed at least 1 head and 1 token")
    if depth < 1 or depth % heads:
        raise KernelError(f"values: got {depth} channels, allowed a multiple of the {heads} heads of attention")
    if width < 1:
        raise KernelError(f"text: got {shapes['text']}, allowed at least 1 channel")
    fitting = {
        "values": (images, blocks, tokens, depth),
        "projection": (blocks, depth, width),
        "scale": (images,),
        "offset": (images, blocks, width),
    }
    for name, shape in fitting.items():
        if name in shapes and shapes[name] != shape:
            raise KernelError(f"{name}: got {shapes[name]}, allowed {shape}")
    if blocks < options.candidate_blocks:
        raise KernelError(
            f"blocks: got {blocks}, strategy {options.strategy!r} needs {options.candidate_blocks}; hand over the "
            "signals of more blocks or lower HeadScoreOptions.blocks"
        )
    candidates = options.candidate_blocks * heads
    if options.chosen(candidates) > candidates:
        raise KernelError(
            f"top: got {options.top}, allowed up to the {candidates} heads of {options.candidate_blocks} block(s)"
        )
