"""The launches of ``multiscale``: what is allocated, how it is cut into programs."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import TYPE_CHECKING

from eyeshine_kernels.backend import KernelError, next_power_of_2
from eyeshine_kernels.multiscale.kernel import (
    CELLS,
    DEPTH,
    KEYS,
    LEAST,
    WARPS,
    cells_kernel,
    gate_kernel,
    level_kernel,
    literal_gate_kernel,
    relations_kernel,
)
from eyeshine_kernels.multiscale.options import MLP, MultiscaleOptions, SemanticMaps

if TYPE_CHECKING:
    from torch import Tensor, device

__all__ = ["MAX_CHANNELS", "MAX_PATCHES", "launch_literal", "launch_resolution"]

# A map lives in the registers of one program: 32 warps hold 64 values per thread at this size, more would spill.
MAX_PATCHES = 65536
# A query of the literal form does, too, one at a time at this size.
MAX_CHANNELS = 8192

_MOST_PROMPTS = 64


@functools.lru_cache(maxsize=32)
def _plan(options: MultiscaleOptions, grid: tuple[int, int], where: device) -> Tensor:
    """[scales, 5], int32, on the device; kept, because each copy from the host would cost as much as a launch."""
    import torch

    fields, first = [], 0
    for cells in options.cells(grid):
        windows = []
        for size, count in zip(grid, cells, strict=True):
            windows.append(max(-(-(cell + 1) * size // count) - cell * size // count for cell in range(count)))
        fields.append((*cells, first, *windows))
        first += math.prod(cells)
    return torch.tensor(fields, dtype=torch.int32, device=where)


def _on(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the one of the tensors."""
    import torch

    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _divide_up(size: int, tile: int) -> int:
    return -(-size // tile)


def _tile(size: int, most: int) -> int:
    return min(most, max(LEAST, next_power_of_2(size)))


def _warps(block: int) -> int:
    """8 values per lane, up to the largest program; chosen on paper, not measured on a GPU."""
    return min(max(block // 256, 1), 32)


def _outputs(base: Tensor) -> SemanticMaps[Tensor]:
    import torch

    if base.shape[2] > MAX_PATCHES:
        raise KernelError(f"too many patches in a map: got {base.shape[2]}, allowed up to {MAX_PATCHES}")
    return SemanticMaps(*(torch.empty(base.shape, dtype=torch.float32, device=base.device) for _ in range(2)))


def launch_resolution(
    queries: Tensor, base: Tensor, *, grid: tuple[int, int], layer_weights: Tensor | None, options: MultiscaleOptions
) -> SemanticMaps[Tensor]:
    """Compute ``resolution_reference`` on the device of the tensors in three launches, none where nothing comes out.

    Between them stand the resized queries in float32, [B, K, all cells, D], and the spread relevance,
    [B, P, K, all cells]; relations are never stored, and are computed once for every 64 prompts.
    Shapes, dtypes, devices and contiguity have been checked by ``eyeshine_kernels.multiscale.multiscale``.
    """
    import torch

    out = _outputs(base)
    images, blocks, patches, channels = queries.shape
    prompts = base.shape[1]
    if out.maps.numel() == 0:
        return out
    scaled = [math.prod(cells) for cells in options.cells(grid)]
    tiles, total, scales = _divide_up(max(scaled), CELLS), sum(scaled), len(scaled)
    empty = functools.partial(torch.empty, dtype=torch.float32, device=base.device)
    cells, inverses = empty((images, blocks, total, channels)), empty((images, blocks, total))
    spread = empty((images, prompts, blocks, total))
    plan = _plan(options, grid, base.device)
    block_p, block_d, block = _tile(prompts, _MOST_PROMPTS), _tile(channels, DEPTH), next_power_of_2(patches)
    prompt_tiles = _divide_up(prompts, block_p)
    sizes = {"BLOCK_M": CELLS, "BLOCK_N": KEYS, "BLOCK_D": block_d, "num_warps": WARPS, "enable_fp_fusion": True}
    with _on(base):
        cells_kernel[(images * blocks * tiles, scales)](
            queries, plan, cells, inverses, patches, channels, *grid, total, tiles, **sizes
        )
        relations_kernel[(images * blocks * tiles * prompt_tiles, scales)](
            cells,
            inverses,
            base,
            plan,
            spread,
            prompts,
            blocks,
            patches,
            channels,
            *grid,
            total,
            tiles,
            prompt_tiles,
            1 / (options.temperature * math.log(2)),
            BLOCK_P=block_p,
            **sizes,
        )
        gate_kernel[(images * prompts,)](
            spread,
            base,
            layer_weights,
            plan,
            out.maps,
            out.semantics,
            blocks,
            patches,
            *grid,
            total,
            scales,
            float(options.alpha),
            float(options.beta),
            float(options.rho * options.alpha),
            BLOCK=block,
            num_warps=_warps(block),
            enable_fp_fusion=True,
        )
    return out


def launch_literal(
    queries: Tensor, base: Tensor, *, layer_weights: Tensor | None, mlp: MLP[Tensor] | None, options: MultiscaleOptions
) -> SemanticMaps[Tensor]:
    """Compute ``literal_reference`` on the device of the tensors in two launches, and torch's own GEMMs for the MLP.

    Shapes, dtypes, devices and contiguity have been checked by ``eyeshine_kernels.multiscale.multiscale``.
    """
    import torch

    out = _outputs(base)
    images, blocks, patches, channels = queries.shape
    prompts = base.shape[1]
    if channels > MAX_CHANNELS:
        raise KernelError(f"too many channels for form 'literal': got {channels}, allowed up to {MAX_CHANNELS}")
    if out.maps.numel() == 0:
        return out
    # A positive factor is lost when a vector is normalised: without an MLP, one copy counts for every scale.
    features = queries[None] if mlp is None else _transformed(queries, mlp, options.scales)
    copies = features.shape[0]
    levels = torch.empty((copies, images, blocks, patches), dtype=torch.float32, device=base.device)
    weight = len(options.scales) / copies / blocks * (math.log(1 + math.e) if layer_weights is None else 1)
    block_d = next_power_of_2(channels)
    block = _tile(patches, 256)
    with _on(base):
        level_kernel[(copies * images * blocks,)](
            features,
            None if mlp is None else mlp.gain,
            None if mlp is None else mlp.shift,
            levels,
            patches,
            channels,
            1 / (math.sqrt(channels) * patches),
            1.0 if mlp is None else float(mlp.epsilon),
            NORM=mlp is not None,
            BLOCK_N=min(MAX_CHANNELS // block_d, 64),
            BLOCK_D=block_d,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
        literal_gate_kernel[(images * prompts * _divide_up(patches, block),)](
            levels,
            base,
            layer_weights,
            out.maps,
            out.semantics,
            images,
            prompts,
            blocks,
            patches,
            copies,
            weight,
            float(options.alpha),
            BLOCK=block,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return out


def _transformed(queries: Tensor, mlp: MLP[Tensor], scales: tuple[float, ...]) -> Tensor:
    """``W_2 ReLU(W_1 s x + b_1) + b_2`` for each scale, [scales, B, K, N, D], float32; LayerNorm is the kernel's."""
    import torch

    linear = torch.nn.functional.linear
    with torch.no_grad():
        given = {name: tensor.float() for name, tensor in mlp.named().items()}
        scaled = torch.stack([queries.float() * scale for scale in scales])
        hidden = linear(scaled, given["first"], given.get("first_bias")).relu_()
        return linear(hidden, given["second"], given.get("second_bias"))
