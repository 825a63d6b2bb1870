"""Explanations that stay on the GPU: from the engine's output to heat maps and pictures without a copy to the host.

Everything here runs the Triton kernels (or their interpreter, in tests) on torch tensors that share the engine's memory
by DLPack. torch is imported when the first tensor is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eyeshine.engine import DeviceArray
from eyeshine.errors import InputError
from eyeshine.explanation import Explanation, Facts, check_finite
from eyeshine.preprocess import CropBox
from eyeshine.upsample import Scale, check_scale
from eyeshine_kernels.normalize import NormalizeOptions, normalize
from eyeshine_kernels.overlay import overlay
from eyeshine_kernels.upsample import upsample

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeviceExplanation", "joined", "tensors", "wait"]

# A plain min-max: no boosting, and an epsilon that only keeps a constant map from 0/0.
_MIN_MAX: Final = NormalizeOptions(beta=1, relu=False, epsilon=1e-30)


def tensors(outputs: Mapping[str, DeviceArray]) -> dict[str, Tensor]:
    """Outputs of an engine as torch tensors on the same memory."""
    import torch

    return {name: torch.from_dlpack(value) for name, value in outputs.items()}  # type: ignore[attr-defined]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors along their first axis."""
    import torch

    return torch.cat(list(parts))


def wait(tensor: Tensor) -> None:
    """Wait for the kernels that were launched: the engine may write over what they read at its next run."""
    if tensor.is_cuda:
        import torch

        torch.cuda.current_stream(tensor.device).synchronize()


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceExplanation(Facts):
    """An explanation whose tensors are where they were computed; any consumer of DLPack reads them as they are.

    Attributes:
        maps: float32 [B, P, h, w] at patch resolution, the method's own values. Not looked at on the way: an engine
            that yields NaN shows as NaN here, ``to_host`` refuses it.
        similarities: float32 [B, P], cosine of image and text.
    """

    maps: Tensor
    similarities: Tensor

    def to_host(self) -> Explanation:
        """A copy on the host.

        Raises:
            EngineError: a map that is not finite.
        """
        started = perf_counter()
        maps, similarities = (np.array(tensor.cpu().numpy()) for tensor in (self.maps, self.similarities))
        check_finite(maps, self.method)
        seconds = perf_counter() - started
        facts = {field.name: getattr(self, field.name) for field in fields(Facts)}
        total = self.timings_ms["total"] + seconds * 1e3
        facts["timings_ms"] = {**self.timings_ms, "to_host": seconds * 1e3, "total": total}
        return Explanation(maps=maps, similarities=similarities, **facts)

    def heatmaps(self, scale: Scale = "each", size: tuple[int, int] | None = None) -> Tensor:
        """Heat maps on the original images, 0..1; as ``Explanation.heatmaps``.

        Args:
            scale: "each" or "shared".
            size: (height, width) of the result; by default that of the images.

        Returns:
            float32 [B, P, H, W], on the device.

        Raises:
            InputError: images of several sizes, and no ``size``.
        """
        chosen = self._size(size)
        heat: Tensor = upsample(self._normalized(scale), chosen, crops=self._crops(chosen), backend="triton")
        return heat

    def overlays(self, scale: Scale | None = None, *, alpha: float = 0.9, mute: float = 0.5) -> Tensor:
        """The images with their heat maps over them; as ``Explanation.overlay``, for all images and texts at once.

        Args:
            scale: as in ``heatmaps``; by default "shared" where there are several prompts, else "each".
            alpha: 0..1, how much of the colour the hottest pixel takes.
            mute: 0..1, how far the photograph is taken towards grey first.

        Returns:
            uint8 [B, P, H, W, 3], on the device. The photographs are copied there once.

        Raises:
            InputError: images of several sizes.
        """
        import torch

        from eyeshine.render import COLOURS, strengths

        size = self._size(None)
        device = self.maps.device
        pictures: Tensor = overlay(
            torch.from_numpy(np.stack(self.images)).to(device),
            self._normalized(scale or self.picture_scale),
            torch.from_numpy(COLOURS.copy()).to(device),
            torch.tensor(strengths(alpha), dtype=torch.uint8, device=device),
            mute=mute,
            crops=self._crops(size),
            backend="triton",
        )
        return pictures

    def _normalized(self, scale: Scale) -> Tensor:
        check_scale(scale)
        images, prompts, rows, columns = self.maps.shape
        flat = self.maps.reshape(images, prompts, rows * columns)
        if scale == "shared":
            positive = flat.clamp_min(0)
            most = positive.amax((1, 2), keepdim=True)
            return (positive / most.where(most > 0, most.new_ones(()))).reshape(self.maps.shape)
        return normalize(flat, options=_MIN_MAX, backend="triton").reshape(self.maps.shape)

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        if size is not None:
            return size
        sizes = {(crop.height, crop.width) for crop in self.crops}
        if len(sizes) > 1:
            raise InputError("images of several sizes", got=sorted(sizes), cure="pass size, or explain them one by one")
        return next(iter(sizes))

    def _crops(self, size: tuple[int, int]) -> Any:
        """What the model saw of each image, in pixels of the result; None where it saw all of it."""
        import torch

        boxes = [_box(crop, size) for crop in self.crops]
        if all(box == [0.0, 0.0, float(size[0]), float(size[1])] for box in boxes):
            return None
        return torch.tensor(boxes, dtype=torch.float32, device=self.maps.device)


def _box(crop: CropBox, size: tuple[int, int]) -> list[float]:
    """y0, x0, y1, x1 of a crop, scaled from its image to ``size``."""
    down, across = size[0] / crop.height, size[1] / crop.width
    return [crop.y0 * down, crop.x0 * across, crop.y1 * down, crop.x1 * across]
