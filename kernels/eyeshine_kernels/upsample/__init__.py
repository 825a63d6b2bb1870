"""Patch maps to heat maps of an image's size: bilinear, one launch for all images and prompts."""

from __future__ import annotations

from typing import Any, TypeVar

from eyeshine_kernels.backend import Backend, resolve
from eyeshine_kernels.upsample.reference import reference_upsample

__all__ = ["upsample"]

Tensor = TypeVar("Tensor")


def upsample(
    maps: Tensor, size: tuple[int, int], *, crops: Tensor | None = None, backend: Backend | None = None
) -> Tensor:
    """Interpolate maps [B, P, h, w] to [B, P, H, W], bilinear at half-pixel centres, 0 outside the crop.

    Between the centres of the cells linear, constant beyond the outermost ones, exactly 0 where the centre of a pixel
    lies outside the region that the model saw: what ``eyeshine.upsample.to_image`` does. ``reference.py`` is the
    definition.

    Args:
        maps: [B, P, h, w], one value per patch, any unit; a NumPy array for "reference", a contiguous torch tensor of
            fp32, fp16 or bf16 on a CUDA device for "triton".
        size: (H, W), height and width of the result in pixels.
        crops: [B, 4], the region that the grid covers, y0, x0, y1, x1 in pixels of the result, within it; of the same
            kind as the maps, float32 for "triton", which does not look at the values, as that would wait for the
            device: where a box has no area nothing is seen, where it is NaN the map is. None is the whole.
        backend: "reference" (NumPy; the same as None) or "triton".

    Returns:
        [B, P, H, W] in the dtype and of the kind of the maps.

    Raises:
        KernelError: a backend that is not there, or a shape, dtype, size, box, device or layout that is not allowed.
    """
    result: Any
    if resolve(backend) == "triton":
        from eyeshine_kernels.upsample.kernel import triton_upsample

        result = triton_upsample(maps, size, crops)  # type: ignore[arg-type]
    else:
        result = reference_upsample(maps, size, crops)  # type: ignore[arg-type]
    return result  # type: ignore[no-any-return]
