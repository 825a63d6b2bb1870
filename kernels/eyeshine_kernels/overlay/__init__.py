"""Heat maps over their photographs: up-sampling, colour map, muting and blending, one launch for all of them."""

from __future__ import annotations

from typing import Any, TypeVar

from eyeshine_kernels.backend import Backend, resolve
from eyeshine_kernels.overlay.reference import MARK, reference_overlay

__all__ = ["MARK", "overlay"]

Tensor = TypeVar("Tensor")


def overlay(
    images: Tensor,
    maps: Tensor,
    colours: Tensor,
    strengths: Tensor,
    *,
    mute: float = 0.5,
    crops: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Lay each map [B, P, h, w] over its photograph [B, H, W, 3]: the hotter, the more of the colour.

    What ``eyeshine.render.overlay`` draws of ``eyeshine.upsample.to_image``, for all prompts of all images and
    without the heat maps in between. ``reference.py`` is the definition.

    Args:
        images: [B, H, W, 3], uint8, RGB; a NumPy array for "reference", a contiguous torch tensor on a CUDA device
            for "triton".
        maps: [B, P, h, w], in 0..1 (values beyond are cut), of the same kind; fp32, fp16 or bf16 for "triton".
        colours: [256, 3], uint8, the colour map: RGB at each level of heat.
        strengths: [256], uint8, how much of the colour each level takes, in 1/255; 0 at level 0 leaves the photograph
            alone where the model saw nothing.
        mute: 0..1, how far the photograph is taken towards grey first, so that its own colours are not read as heat.
        crops: [B, 4], the region that the grid covers, as for ``upsample``: float32, y0, x0, y1, x1 in pixels of the
            image; None is the whole.
        backend: "reference" (NumPy; the same as None) or "triton".

    Returns:
        [B, P, H, W, 3], uint8, of the images' kind. Where float32 puts the heat on the other side of an edge between
        two levels, "triton" takes the neighbouring level (docs/numerics.md); everything after the level is in
        integers and equal. Where the heat is NaN the pixel is ``MARK``, magenta.

    Raises:
        KernelError: a backend that is not there, or a shape, dtype, box, value, device or layout that is not allowed.
    """
    result: Any
    if resolve(backend) == "triton":
        from eyeshine_kernels.overlay.kernel import triton_overlay

        result = triton_overlay(images, maps, colours, strengths, mute, crops)  # type: ignore[arg-type]
    else:
        result = reference_overlay(images, maps, colours, strengths, mute, crops)  # type: ignore[arg-type]
    return result  # type: ignore[no-any-return]
