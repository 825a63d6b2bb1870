"""The definition of ``head_scores``, in NumPy: one image after the other, all prompts at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.head_scores.options import FLAT, HeadScoreOptions, HeadScores
from eyeshine_kernels.products import gram, matmul

__all__ = ["head_scores_reference"]

Array = NDArray[Any]


# An infinity in the inputs becomes a NaN in the scores, which is the report; NumPy's warning would be a second one.
@np.errstate(invalid="ignore", over="ignore")
def head_scores_reference(
    attention: Array,
    values: Array,
    projection: Array,
    text: Array,
    *,
    options: HeadScoreOptions,
    scale: Array | None = None,
    offset: Array | None = None,
) -> HeadScores[Array]:
    """Contributions of heads, their relevance to each text, and the greedy choice.

    Shapes have been checked by the caller, ``eyeshine_kernels.head_scores.head_scores``, which describes them too.

    Args:
        attention: A, [B, K, H, T].
        values: V, [B, K, T, D].
        projection: M, [K, D, E].
        text: t^, [P, E].
        options: candidates, weights, how many.
        scale: [B].
        offset: [B, K, E].

    Returns:
        All of ``HeadScores``, float32; float64 where an input is float64.
    """
    dtype = np.result_type(np.float32, attention, values, projection, text)
    last = slice(-options.candidate_blocks, None)
    vectors = _contributions(attention[:, last], values[:, last], projection[last], dtype)
    if scale is not None:
        vectors = vectors * scale.astype(dtype)[:, None, None, None]
    if offset is not None:
        vectors = vectors + offset[:, last, None].astype(dtype)
    images, blocks, heads, width = vectors.shape
    prompts, count = len(text), options.chosen(blocks * heads)
    flat = np.ascontiguousarray(vectors).reshape(images, blocks * heads, width)
    # Not a BLAS product, which may round equal rows differently and so break a tie.
    relevance = np.einsum("bce,pe->bpc", flat, text.astype(dtype))
    standardised = _standardise(relevance)
    indices = np.empty((images, prompts, count), np.int64)
    scores = np.empty((images, prompts, count), dtype)
    for b in range(images):
        indices[b], scores[b] = _choose(standardised[b], _cosines(flat[b]), options, count)
    weights = np.zeros_like(relevance)
    np.put_along_axis(weights, np.maximum(indices, 0), dtype.type(1 / count), axis=-1)
    weights[np.isnan(scores).any(axis=-1)] = np.nan
    shape = (images, prompts, blocks, heads)
    return HeadScores(
        indices=indices,
        scores=scores,
        relevance=relevance.reshape(shape),
        standardised=standardised.reshape(shape),
        weights=weights.reshape(shape),
        contributions=vectors,
    )


def _contributions(attention: Array, values: Array, projection: Array, dtype: np.dtype[Any]) -> Array:
    """(sum_i A_h[i] V_{h,i}) M_h, [B, K, H, E]."""
    images, blocks, heads, _ = attention.shape
    depth = values.shape[3] // heads
    # Every head over all channels, then its own: H times the arithmetic, and a third of the time, as V is not copied.
    mixed = matmul(attention.astype(dtype, copy=False), values.astype(dtype, copy=False))
    own = np.arange(heads)
    per_head = mixed.reshape(images, blocks, heads, heads, depth)[:, :, own, own]
    folded = projection.reshape(blocks, heads, depth, projection.shape[2]).astype(dtype, copy=False)
    result: Array = matmul(per_head[..., None, :], folded)[..., 0, :]
    return result


def _cosines(vectors: Array) -> Array:
    """Cosines of all pairs of contributions, [C, C]; a zero vector's are 0."""
    lengths = np.sqrt((vectors * vectors).sum(axis=-1))
    norms = np.outer(lengths, lengths)
    cosines: Array = np.divide(gram(vectors), norms, out=np.zeros_like(norms), where=norms != 0)
    return cosines


def _standardise(relevance: Array) -> Array:
    """Z-scores over the candidates, with the deviation of the whole population; 0 where there is none.

    A NaN or an infinity makes all of its row NaN.
    """
    centred = relevance - relevance.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True))
    flat = deviation <= FLAT * np.abs(relevance).max(axis=-1, keepdims=True)
    scored: Array = np.where(flat, np.zeros_like(centred), centred / np.where(flat, deviation.dtype.type(1), deviation))
    return scored


def _choose(relevance: Array, cosines: Array, options: HeadScoreOptions, count: int) -> tuple[Array, Array]:
    """Indices and scores, [P, count] each: the argmax of alpha * relevance - beta * penalty, again and again.

    From the step on in which a prompt has a NaN, its indices are -1 and its scores NaN.
    """
    alpha, beta = (relevance.dtype.type(weight) for weight in (options.head_alpha, options.head_beta))
    prompts = len(relevance)
    if options.strategy == "layers":
        every = np.broadcast_to(np.arange(count), relevance.shape)
        return np.where(np.isnan(relevance), -1, every), alpha * relevance
    indices, scores = np.full((prompts, count), -1), np.full((prompts, count), np.nan, relevance.dtype)
    free, penalty, every = np.ones(relevance.shape, bool), np.zeros_like(relevance), np.arange(prompts)
    for step in range(count):
        score = alpha * relevance - beta * penalty
        sound = ~np.isnan(score).any(axis=-1)
        best = np.where(free, score, -np.inf).argmax(axis=-1)
        indices[sound, step] = best[sound]
        scores[sound, step] = score[every, best][sound]
        free[every, best] = False
        penalty = cosines[best] if options.penalty == "previous" or step == 0 else np.maximum(penalty, cosines[best])
        penalty[~sound] = np.nan
    return indices, scores
