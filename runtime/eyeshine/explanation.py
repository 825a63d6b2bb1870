"""The result of ``Explainer.explain``: maps, similarities, and ways to look at them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import EngineError, OptionError
from eyeshine.preprocess import CropBox
from eyeshine.upsample import Scale, normalize_maps, suppress, to_image
from eyeshine_kernels.multiscale import enhance_contrast

if TYPE_CHECKING:
    from PIL.Image import Image

    from eyeshine.text_side.result import TextExplanation

__all__ = ["Explanation", "Facts", "check_finite"]

Heatmaps = NDArray[np.float32] | list[NDArray[np.float32]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Facts:
    """What was explained, by what, in which time; the same wherever the maps are.

    Attributes:
        texts: the P texts.
        method: name of the method.
        target: what was explained: "text", or the text against others.
        images: uint8 [H, W, 3] each, as they were explained (orientation applied, RGB).
        crops: the part of each image that the model saw.
        bundle: name of the bundle.
        engine: provider, threads and determinism of the run, graph, backend of the kernels.
        timings_ms: preprocess, text, load (of a graph, at its first use), graph, maps (or passes, of a method by
            passes), total; milliseconds, whole call.
        background: a in tau = a max(heat): what pictures suppress, 0 for nothing (Concept Attribution, eq. 6 and 7).
        details: what the method says beyond its maps: "heads" (a ``HeadSelection``), "contributions"
            (``HeadContributions``), "contrast" (``Contrast`` of each image and text), "adjustment", "passes" (of a
            method by passes: images encoded, images of a full batch, and what the method notes of each image).
        adjusted: whether metrics had a part in the maps; metrics refuse to score them.
    """

    texts: tuple[str, ...]
    method: str
    target: str
    images: tuple[NDArray[np.uint8], ...]
    crops: tuple[CropBox, ...]
    bundle: str
    engine: dict[str, Any]
    timings_ms: dict[str, float]
    background: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    adjusted: bool = False

    @property
    def picture_scale(self) -> Scale:
        """The scale of pictures: one for all where there are several, so that they can be compared."""
        return "shared" if len(self.texts) > 1 else "each"


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation(Facts):
    """Where the model looked, for B images and P texts; other attributes as in ``Facts``.

    Attributes:
        maps: float32 [B, P, h, w] at patch resolution, the method's own values; all zeros where there is no evidence.
        similarities: float32 [B, P], cosine of image and text.
        text_side: the same texts token by token, where both sides were asked for.
    """

    maps: NDArray[np.float32]
    similarities: NDArray[np.float32]
    text_side: TextExplanation | None = None

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return self.maps.shape[2], self.maps.shape[3]

    def heatmaps(self, scale: Scale = "each", size: tuple[int, int] | None = None) -> Heatmaps:
        """Heat maps on the original images, 0..1; what the model did not see (cropped away) is zero.

        Values are normalised at patch resolution, **before** they are up-sampled (bilinear, half-pixel centres):
        ``each`` min-maxes every map by itself, so that every map reaches 1; ``shared`` clips negative values and
        divides by the largest value over all prompts of the image, so that an absent concept does not glow as
        brightly as a present one. A map without evidence is all zeros, and so is a constant one under ``each``.

        Args:
            scale: "each" or "shared".
            size: (height, width) of the result; by default each image's own.

        Returns:
            float32 [B, P, H, W], or a list of B arrays [P, H, W] where the images' sizes differ and ``size`` is None.
        """
        per_image = [self.heatmap(index, scale, size) for index in range(len(self.images))]
        shapes = {heat.shape for heat in per_image}
        return np.stack(per_image) if len(shapes) == 1 else per_image

    def overlay(
        self,
        image: int = 0,
        prompt: int = 0,
        *,
        scale: Scale | None = None,
        size: tuple[int, int] | None = None,
        background: float | None = None,
        contrast: bool = False,
    ) -> Image:
        """The image with one heat map over it, a PIL image.

        Args:
            image: index of the image.
            prompt: index of the text.
            scale: as in ``heatmaps``; by default "shared" where there are several prompts, else "each".
            size: (height, width) of the picture; by default the image's own.
            background: patches up to this share of the largest heat are left dark; by default what the method says.
            contrast: as in ``heatmap``.

        Raises:
            OptionError: no such image or prompt, or a background outside 0..1.
        """
        from eyeshine.render import overlay, resize

        self._check("image", image, len(self.images))
        self._check("prompt", prompt, len(self.texts))
        dark = self._background(background)
        heat = self.heatmap(image, scale or self.picture_scale, size, dark, contrast=contrast)[prompt]
        photo = self.images[image] if size is None else resize(self.images[image], size)
        return overlay(photo, heat)

    def heatmap(
        self,
        image: int = 0,
        scale: Scale = "each",
        size: tuple[int, int] | None = None,
        background: float = 0.0,
        *,
        contrast: bool = False,
    ) -> NDArray[np.float32]:
        """Heat maps of one image, float32 [P, H, W]; as ``heatmaps``, patches up to ``background`` x max left dark.

        With ``contrast`` each map is clipped at its percentiles 1 and 99 and stretched to 0..1 (MMEL, section 3.4), for
        display alone: clipping makes ties.
        """
        self._check("image", image, len(self.images))
        heat = normalize_maps(self.maps[image], scale)
        if contrast:
            heat = enhance_contrast(heat.reshape(len(heat), -1)).reshape(heat.shape).astype(np.float32)
        heat = suppress(heat, background)
        return to_image(heat, self.crops[image], size)

    def _background(self, background: float | None) -> float:
        return self.background if background is None else background

    def record(self, image: int = 0) -> dict[str, Any]:
        """What ``explain --json`` prints of one image, but for its name and files."""
        self._check("image", image, len(self.images))
        return {
            "bundle": self.bundle,
            "method": self.method,
            "target": self.target,
            "texts": list(self.texts),
            "similarities": [round(float(value), 6) for value in self.similarities[image]],
            "patch_grid": list(self.patch_grid),
            **self._details(image),
            **({} if self.text_side is None else {"text_side": self.text_side.record(image)}),
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
        }

    def _details(self, image: int) -> dict[str, Any]:
        """What the method says beyond its maps, for JSON."""
        rows: dict[str, Any] = {}
        if "heads" in self.details:
            heads = self.details["heads"]
            rows["heads"] = [heads.chosen(image, prompt) for prompt in range(len(self.texts))]
        if "contributions" in self.details:
            found = self.details["contributions"]
            rows["contributions"] = [found.record(image, prompt) for prompt in range(len(self.texts))]
        if "contrast" in self.details:
            rows["contrast"] = [choice.record() for choice in self.details["contrast"][image]]
        if "adjustment" in self.details:
            rows["adjustment"] = self.details["adjustment"][image]
        if "passes" in self.details:
            passes = self.details["passes"]
            rows["passes"] = {name: passes[name] for name in ("encoded", "batch")} | {"notes": passes["images"][image]}
        return rows

    @staticmethod
    def _check(what: str, index: int, count: int) -> None:
        if not isinstance(index, int) or not 0 <= index < count:
            raise OptionError(f"no such {what}", got=index, allowed=f"0..{count - 1}")


def check_finite(maps: NDArray[np.float32], method: str) -> None:
    """Raise EngineError where a map holds a NaN or an infinity."""
    if not np.isfinite(maps).all():
        raise EngineError(f"method {method} yielded a map that is not finite", cure="report it with the image")
