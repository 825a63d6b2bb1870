"""The definition of ``head_scores``, in NumPy: plain and slow, one image and prompt after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.head_scores.options import FLAT, HeadScoreOptions, HeadScores

__all__ = ["head_scores_reference"]

Array = NDArray[Any]


# An infinity in the inputs becomes a NaN in the scores, which is the report; NumPy's warning would be a second one.
@np.errstate(invalid="ignore")
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
    indices = np.empty((images, prompts, count), np.int64)
    scores = np.empty((images, prompts, count), dtype)
    relevance, standardised, weights = np.empty((3, images, prompts, blocks * heads), dtype)
    lengths = np.sqrt((flat * flat).sum(axis=-1))
    for b, p in np.ndindex(images, prompts):
        # Not a matrix product, which may round equal rows differently and so break a tie.
        relevance[b, p] = (flat[b] * text[p].astype(dtype)).sum(axis=-1)
        standardised[b, p] = _standardise(relevance[b, p])
        indices[b, p], scores[b, p] = _choose(standardised[b, p], flat[b], lengths[b], options, count)
        weights[b, p] = 0
        weights[b, p, indices[b, p]] = 1 / count
        if np.isnan(scores[b, p]).any():
            weights[b, p] = np.nan
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
    images, blocks, heads, tokens = attention.shape
    depth = values.shape[3] // heads
    per_head = values.reshape(images, blocks, tokens, heads, depth).transpose(0, 1, 3, 2, 4).astype(dtype)
    mixed = attention[..., None, :].astype(dtype) @ per_head
    folded = projection.reshape(blocks, heads, depth, projection.shape[2]).astype(dtype)
    result: Array = (mixed @ folded)[..., 0, :]
    return result


def _standardise(relevance: Array) -> Array:
    """Z-scores, with the deviation of the whole population; 0 where there is none; a NaN or infinity makes all NaN."""
    centred = relevance - relevance.mean()
    deviation = np.sqrt(np.mean(centred * centred))
    if deviation <= FLAT * np.abs(relevance).max():
        return np.zeros_like(relevance)
    result: Array = centred / deviation
    return result


def _choose(
    relevance: Array, vectors: Array, lengths: Array, options: HeadScoreOptions, count: int
) -> tuple[Array, Array]:
    """Indices and scores, [count] each: the argmax of alpha * relevance - beta * penalty, again and again."""
    alpha, beta = (relevance.dtype.type(weight) for weight in (options.head_alpha, options.head_beta))
    if options.strategy == "layers":
        return np.where(np.isnan(relevance), -1, np.arange(count)), alpha * relevance
    indices, scores = np.full(count, -1), np.full(count, np.nan, relevance.dtype)
    free = np.ones(len(relevance), bool)
    penalty = np.zeros_like(relevance)
    for step in range(count):
        score = alpha * relevance - beta * penalty
        if np.isnan(score).any():
            break
        best = int(np.where(free, score, -np.inf).argmax())
        indices[step], scores[step], free[best] = best, score[best], False
        products, norms = (vectors * vectors[best]).sum(axis=-1), lengths * lengths[best]
        cosine = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
        penalty = cosine if options.penalty == "previous" or step == 0 else np.maximum(penalty, cosine)
    return indices, scores
