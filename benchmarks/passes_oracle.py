"""What methods by passes should yield: their definitions in float64 on the exporter's reference tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Normal, kl_divergence

from eyeshine.methods import KernelShap, M2ib, Rise
from eyeshine.methods.kernel_shap import coalitions, superpatches
from eyeshine.methods.rise import draw_masks

if TYPE_CHECKING:
    from benchmarks.gate import Array
    from benchmarks.workload import Workload

__all__ = ["kernel_shap_map", "m2ib_map", "rise_map"]

Exact = NDArray[np.float64]
_AT_ONCE = 16


def rise_map(workload: Workload, pixels: Array, options: Rise) -> Exact:
    """[1, 1, N] of one image [3, Y, X] in 0..1 and the workload's first text."""
    height, width = pixels.shape[1:]
    pairs = zip(*draw_masks(options, (height, width)), strict=True)
    masks = np.stack([_mask(grid, shift, (height, width)) for grid, shift in pairs])
    mean = _mean(workload)
    scores = _scores(workload, [mean + mask * (pixels - mean) for mask in masks])
    maps = np.einsum("n,nyx->yx", scores - scores.mean(), masks) / (options.masks * options.probability)
    (rows, columns), (down, across) = workload.source.config.vision.grid, workload.source.config.vision.patch_size
    inside = maps[: rows * down, : columns * across].reshape(rows, down, columns, across)
    return np.asarray(inside.mean(axis=(1, 3)).reshape(1, 1, -1))


def _mask(grid: Array, shift: Array, size: tuple[int, int]) -> Exact:
    """A grid enlarged bilinearly, one axis after the other; a place beyond an outermost centre is mirrored at it."""
    result = grid.astype(np.float64)
    for axis, (start, length) in enumerate(zip(shift, size, strict=True)):
        cells = grid.shape[axis]
        full = (cells + 1) * -(-length // cells)
        at = np.abs((np.arange(start, start + length) + 0.5) * cells / full - 0.5)
        at = np.where(at > cells - 1, 2 * (cells - 1) - at, at)
        lines = np.moveaxis(result, axis, -1).reshape(-1, cells)
        enlarged = np.stack([np.interp(at, np.arange(cells), line) for line in lines])
        others = np.delete(result.shape, axis)
        result = np.moveaxis(enlarged.reshape(*others, length), -1, axis)
    return result


def kernel_shap_map(workload: Workload, pixels: Array, options: KernelShap) -> Exact:
    """[1, 1, N] of one image [3, Y, X] in 0..1 and the workload's first text: by Lagrange's multiplier."""
    vision, mean = workload.source.config.vision, _mean(workload)
    square = superpatches(vision.grid, options.side)
    count = int(square.max()) + 1
    chosen, weights = coalitions(count, options)
    frames = []
    for kept in (np.zeros(count, bool), np.ones(count, bool), *chosen):
        frame = pixels.astype(np.float64).copy()
        for (row, column), feature in np.ndenumerate(square):
            if not kept[feature]:
                down, across = vision.patch_size
                frame[:, row * down : (row + 1) * down, column * across : (column + 1) * across] = mean
        frames.append(frame)
    none, everything, *scores = _scores(workload, frames)
    z = chosen.astype(np.float64)
    gram = 2 * (z.T * weights) @ z
    system = np.block([[gram, np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    right = np.append(2 * (z.T * weights) @ (np.array(scores) - none), everything - none)
    values = np.linalg.solve(system, right)[:count]
    return np.asarray((values / np.bincount(square.ravel()))[square].reshape(1, 1, -1))


def m2ib_map(workload: Workload, pixels: Array, options: M2ib) -> Exact:
    """[1, 1, N] of one image [3, Y, X] in 0..1 and the workload's first text; Adam as its paper prints it."""
    tokens = workload.tokens(pixels[None], options.blocks)[0].double()
    text, random = torch.from_numpy(workload.text(1)[0]), np.random.default_rng(options.seed)
    alpha = torch.full_like(tokens, options.start)
    first, second = torch.zeros_like(alpha), torch.zeros_like(alpha)
    divergence = torch.empty(0)
    for step in range(1, options.steps + 1):
        alpha.requires_grad_()
        share = torch.sigmoid(alpha)
        divergence = kl_divergence(Normal(share * tokens, 1 - share), Normal(0.0, 1.0))
        noise = torch.from_numpy(random.standard_normal((options.copies, *tokens.shape), np.float32))
        embeddings = workload.embeddings_of((share * tokens + (1 - share) * noise).float(), options.blocks)
        loss = options.beta * divergence.mean() - (embeddings @ text).mean()
        (slope,) = torch.autograd.grad(loss, alpha)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        towards = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        alpha = alpha.detach() - options.rate * towards
    return np.asarray(divergence.detach().sum(-1)[1:].numpy()[None, None])


def _scores(workload: Workload, frames: list[Exact]) -> Exact:
    """Cosines [n] with the workload's first text."""
    parts = [
        workload.embeddings(np.stack(frames[start : start + _AT_ONCE]).astype(np.float32))
        for start in range(0, len(frames), _AT_ONCE)
    ]
    return np.asarray(np.concatenate(parts).astype(np.float64) @ workload.text(1)[0])


def _mean(workload: Workload) -> Exact:
    return np.array(workload.source.normalisation.mean)[:, None, None]
