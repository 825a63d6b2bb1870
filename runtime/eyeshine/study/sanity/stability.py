"""Stability under noise: how far does a map move when the image changes by less than an eye sees?"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from eyeshine.checks import check_share
from eyeshine.errors import OptionError
from eyeshine.images import load_image
from eyeshine.study.sanity.likeness import likeness, top_overlap
from eyeshine.study.sanity.maps import Row, Subjects, check_seeds

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Stability", "add_noise"]


@dataclass(frozen=True)
class Stability:
    """How much noise is added.

    Attributes:
        sigmas: standard deviations of normal noise on every channel of the model's input, in levels of 0..255. Values
            beyond 0 and 255 are cut off, and levels are whole, as a camera's are.
        seeds: of the noise; each is added to every image.
        share: of the patches whose overlap is told, 0..1.
    """

    sigmas: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    share: float = 0.1

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        check_share("share", self.share)
        fits = all(isinstance(sigma, int | float) and 0 < sigma <= 255 for sigma in self.sigmas)
        if not self.sigmas or not fits or len(set(self.sigmas)) < len(self.sigmas):
            raise OptionError("noise in levels", got=self.sigmas, allowed="different numbers in 0..255, 0 excluded")


def add_noise(explainer: Explainer, subjects: Subjects, options: Stability) -> Iterator[Row]:
    """Compare the maps of noisy images with those of the images.

    Noise is added to what the model takes, after the photo was resized: resizing would take part of it away again,
    how much depends on the photo.

    Args:
        explainer: of the model.
        subjects: samples and methods.
        options: of the noise.

    Yields:
        Rows ``method``, ``key``, ``text``, ``seed``, ``sigma``, ``spearman``, ``spearman_abs``, ``ssim``,
        ``top_overlap``, ``similarity`` (the cosine without noise) and ``similarity_change`` (with it, less that).
        ``error`` in their place where the engine or a map failed.

    Raises:
        SignalError: the bundle lacks a method's graphs.
        ImageError: a sample that cannot be read.
    """
    subjects.check(explainer)
    for photo in subjects.opened():
        pixels = explainer.preprocess.prepare(load_image(photo.image)).pixels
        levels = np.rint(pixels.transpose(1, 2, 0) * 255).astype(np.uint8)
        before = subjects.maps(explainer, replace(photo, image=levels))
        for sigma in options.sigmas:
            for seed in options.seeds:
                # One draw for all sigmas of an image, scaled: so curves over sigma are of the same noise.
                rng = np.random.default_rng((seed, zlib.crc32(photo.key.encode())))
                noisy = levels + sigma * rng.standard_normal(levels.shape)
                image = np.rint(noisy.clip(0, 255)).astype(np.uint8)
                after = subjects.maps(explainer, replace(photo, image=image))
                for name in subjects.methods:
                    first, second = before[name], after[name]
                    for number, text in enumerate(photo.texts):
                        row = {"method": name, "key": photo.key, "text": str(text), "seed": seed, "sigma": sigma}
                        if isinstance(first, str) or isinstance(second, str):
                            yield row | {"error": first if isinstance(first, str) else second}
                            continue
                        change = float(second[1][number] - first[1][number])
                        yield row | likeness(first[0][number], second[0][number]) | {
                            "top_overlap": top_overlap(first[0][number], second[0][number], options.share),
                            "similarity": float(first[1][number]),
                            "similarity_change": change,
                        }  # fmt: skip
