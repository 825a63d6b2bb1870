"""The definition of ``multiscale`` in NumPy, both forms; shapes have been checked by the package's function."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.multiscale.options import EQUAL, FLAT, LEAST_NORM, MLP, TINY, MultiscaleOptions, SemanticMaps
from eyeshine_kernels.products import gram, matmul

__all__ = ["area_matrix", "bilinear_matrix", "literal_reference", "resolution_reference"]

Array = NDArray[np.floating[Any]]


def area_matrix(size: int, cells: int) -> NDArray[np.float64]:
    """Adaptive average pooling of ``size`` positions to ``cells``, [cells, size], rows sum to 1.

    Cell i is the plain mean of positions from ``floor(i size / cells)`` to before ``ceil((i + 1) size / cells)``: whole
    positions, which neighbouring cells may share, as torch's ``interpolate(mode="area")`` takes them.
    """
    matrix = np.zeros((cells, size))
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:stop] = 1 / (stop - start)
    return matrix


def bilinear_matrix(cells: int, size: int) -> NDArray[np.float64]:
    """Linear interpolation from ``cells`` positions to ``size``, [size, cells], rows sum to 1; the edges are held.

    Centres of the outermost pixels do not meet (align_corners=False) and nothing is antialiased.
    """
    source = np.clip((np.arange(size) + 0.5) * (cells / size) - 0.5, 0, cells - 1)
    left = np.floor(source).astype(int)
    matrix = np.zeros((size, cells))
    np.add.at(matrix, (np.arange(size), left), 1 - (source - left))
    np.add.at(matrix, (np.arange(size), np.minimum(left + 1, cells - 1)), source - left)
    return matrix


def resolution_reference(
    queries: Array, base: Array, *, grid: tuple[int, int], layer_weights: Array | None, options: MultiscaleOptions
) -> SemanticMaps[Array]:
    """``E = E_base [1 + alpha sigmoid(beta S)] + rho alpha max(E_base) minmax(S)``, S the mean of spread relevance.

    ``S = sum_l w_l mean_s z(r_ls)``, ``w = softplus(theta) / sum softplus(theta)``, ``r_ls`` from ``_spread``.

    Args:
        queries: [B, K, N, D].
        base: E_base, [B, P, N].
        grid: rows and columns of the N patches.
        layer_weights: theta, [K]; all equal where absent.
        options: settings.

    Returns:
        E and S, [B, P, N] each.
    """
    dtype = np.result_type(np.float32, queries, base)
    images, blocks, patches, _ = queries.shape
    weights = _softplus(layer_weights, blocks, dtype)
    weights = weights / (weights.sum() + dtype.type(TINY))
    resizes = _resizes(options, grid, dtype)
    evidence = base.astype(dtype)
    # The sum of absolute values is the sum wherever evidence is not negative, and cannot cancel elsewhere.
    shares = evidence / (np.abs(evidence).sum(axis=-1, keepdims=True) + dtype.type(TINY))
    semantics = np.zeros((images, base.shape[1], patches), dtype)
    for image in range(images):
        mean = queries[image].mean(axis=1, keepdims=True, dtype=dtype)
        least = np.maximum(EQUAL * np.linalg.norm(mean, axis=2), LEAST_NORM)
        products = np.stack([gram(centre) for centre in queries[image] - mean])
        for rows, columns in resizes:
            scores = _z_scores(_spread(products, shares[image], rows, columns, least, options.temperature))
            semantics[image] += matmul(weights / len(resizes), scores.reshape(blocks, -1)).reshape(patches, -1).T
    gate = options.beta * semantics / 2
    enhanced = evidence * (1 + options.alpha * (0.5 + 0.5 * np.tanh(gate)))  # sigmoid(x), without its overflow
    if options.rho:
        low, high = (reduce(semantics, axis=-1, keepdims=True) for reduce in (np.min, np.max))
        context = (semantics - low) / (high - low + dtype.type(TINY))
        enhanced += options.rho * options.alpha * evidence.max(axis=-1, keepdims=True) * context
    return SemanticMaps(enhanced, semantics)


Resize = tuple[tuple[Array, Array], tuple[Array, Array]]


@functools.lru_cache(maxsize=32)
def _resizes(options: MultiscaleOptions, grid: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Resize, ...]:
    """(down, up) of rows and of columns for each scale; kept, for they take .15 ms of the 1 ms of a block of B/16."""
    rows, columns = (
        [(area_matrix(size, n).astype(dtype), bilinear_matrix(n, size).astype(dtype)) for n in cells]
        for size, cells in zip(grid, zip(*options.cells(grid), strict=True), strict=True)
    )
    return tuple(zip(rows, columns, strict=True))


def _resize(grid: Array, rows: Array, columns: Array) -> Array:
    """[..., h * w, C] to [..., h' * w', C] by matrices [h', h] and [w', w]."""
    (height, width), (*leading, _, channels) = (rows.shape[1], columns.shape[1]), grid.shape
    if height == len(rows) and width == len(columns):
        return grid  # both are the identity
    across = matmul(rows, grid.reshape(*leading, height, width * channels))
    along = matmul(columns, across.reshape(*leading, len(rows), width, channels))
    return np.asarray(along.reshape(*leading, len(rows) * len(columns), channels))


def _spread(
    products: Array,
    shares: Array,
    rows: tuple[Array, Array],
    columns: tuple[Array, Array],
    least: Array,
    temperature: float,
) -> Array:
    """``r = up(R down(e))``, [K, N, P]: relevance e, [P, N], spread along ``R = softmax(f f^T / temperature)``.

    ``(A x)(A x)^T = A (x x^T) A^T``: resized products of all patches, [K, N, N], are products of resized queries, so
    that one GEMM over the channels serves every scale (B/16: .10 ms a block for both coarse scales instead of .27).
    """
    relations = _resize(_resize(products, rows[0], columns[0]).swapaxes(1, 2), rows[0], columns[0])
    inverses = 1 / np.sqrt(np.maximum(np.diagonal(relations, axis1=1, axis2=2), least * least))
    relations = relations * (inverses[:, :, None] * inverses[:, None])
    # Queries that cancel out in a cell leave rounding errors, whose cosines may come out beyond 1. As 1 is the largest,
    # nothing overflows, and no maximum has to be found.
    np.clip(relations, -1, 1, out=relations)
    relations -= 1
    relations /= temperature
    np.exp(relations, out=relations)
    spread = matmul(relations, _resize(shares.T, rows[0], columns[0])) / relations.sum(axis=2, keepdims=True)
    return _resize(spread, rows[1], columns[1])


def _z_scores(spread: Array) -> Array:
    """Over the patches of [K, N, P]; 0 where the deviation is at most 1 % of the mean."""
    mean, deviation = spread.mean(axis=1, keepdims=True), spread.std(axis=1, keepdims=True)
    flat = deviation <= FLAT * np.abs(mean)
    scores: Array = np.where(flat, 0, (spread - mean) / np.where(flat, 1, deviation))
    return scores


def _softplus(theta: Array | None, blocks: int, dtype: np.dtype[Any]) -> Array:
    """``log(1 + exp(theta))`` of [K]; of theta = 1, the paper's value, where it is absent."""
    weights: Array = np.logaddexp(dtype.type(0), np.ones(blocks, dtype) if theta is None else theta.astype(dtype))
    return weights


def literal_reference(
    queries: Array,
    base: Array,
    *,
    layer_weights: Array | None,
    mlp: MLP[Array] | None,
    options: MultiscaleOptions,
) -> SemanticMaps[Array]:
    """``E = E_base [1 + alpha sigmoid(sum_s mean_l softplus(theta_l) mean_j A_ij)]``, MMEL's eq. 1 to 9.

    ``A = f f^T / sqrt(D)`` (5) with f the rows of ``T(s x)`` (1, 3, 4) as unit vectors; (9) calls the reduction of A to
    a number per patch SemanticLevel and does not define it: here the mean over keys j and over layers l.

    Args:
        queries: x, [B, K, N, D].
        base: E_base, [B, P, N].
        layer_weights: theta, [K]; 1, the paper's value, where absent.
        mlp: T; the identity where absent.
        options: scales and alpha.

    Returns:
        E and S, [B, P, N] each.
    """
    dtype = np.result_type(np.float32, queries, base)
    weights = _softplus(layer_weights, queries.shape[1], dtype)[:, None]
    level = np.zeros((queries.shape[0], queries.shape[2]), dtype)
    for scale in options.scales:
        features = queries.astype(dtype) * dtype.type(scale)
        if mlp is not None:
            features = _transform(features, mlp)
        features = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), LEAST_NORM)
        # The mean over keys of products with each key is the product with the mean key.
        keys = features.mean(axis=2, keepdims=True) / math.sqrt(queries.shape[3])
        level += (weights * (features * keys).sum(axis=-1)).mean(axis=1)
    semantics = np.broadcast_to(level[:, None], base.shape).copy()
    return SemanticMaps(base.astype(dtype) * (1 + options.alpha * (0.5 + 0.5 * np.tanh(semantics / 2))), semantics)


def _transform(features: Array, mlp: MLP[Array]) -> Array:
    given = {name: entry.astype(features.dtype) for name, entry in mlp.named().items()}
    hidden = np.maximum(matmul(features, given["first"].T) + given.get("first_bias", 0), 0)
    out = matmul(hidden, given["second"].T) + given.get("second_bias", 0)
    out = out - out.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(out * out, axis=-1, keepdims=True) + mlp.epsilon)
    result: Array = out / deviation * given.get("gain", 1) + given.get("shift", 0)
    return result
