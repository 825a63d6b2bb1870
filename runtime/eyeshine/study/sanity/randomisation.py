"""Cascading weight randomisation: does a map still look the same once the model knows nothing any more?

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: weights are drawn anew from the top of the network down,
step upon step, and maps are compared with those of the trained model. A method whose maps stay alike shows edges or
places of the image, not what the model learned. Released tools miss weights that are no module's own (class token,
positions, projection) and give every module the same seed; here every weight of the image tower is drawn, each from a
seed of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from eyeshine.bundle import Bundle
from eyeshine.checks import check_choice
from eyeshine.explainer import Explainer
from eyeshine.study.sanity.likeness import likeness
from eyeshine.study.sanity.maps import Found, Opened, Row, Subjects, check_seeds
from eyeshine.study.sanity.weights import Draw, WeightCopy

__all__ = ["ORIGINAL", "Randomisation", "randomise_weights"]

ORIGINAL = "original"
"""The step before the first: a copy in which nothing was drawn."""


@dataclass(frozen=True)
class Randomisation:
    """How weights are drawn.

    Attributes:
        draw: see ``WeightCopy.randomise``.
        seeds: of the draws; each is a cascade of its own. Five are usual.
    """

    draw: Draw = "normal"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        check_choice("draw", self.draw, get_args(Draw))
        check_seeds(self.seeds)


def randomise_weights(explainer: Explainer, subjects: Subjects, options: Randomisation) -> Iterator[Row]:
    """Compare the maps of every step with the original's.

    A step's weights are swapped in a copy of the bundle in the system's temporary folder (the size of the bundle).

    Args:
        explainer: of the trained model.
        subjects: samples and methods.
        options: of the draws.

    Yields:
        Rows ``method``, ``key``, ``text``, ``seed``, ``step``, ``spearman``, ``spearman_abs``, ``ssim`` and
        ``embedding``, the cosine of the image's embedding with that of the original; the step "original" once.
        ``error`` in their place where the engine or the map of a randomised model failed.

    Raises:
        SignalError, BundleError: the bundle lacks a method's graphs, or cannot be read.
        OptionError: a bundle whose weights are not drawn anew.
    """
    subjects.check(explainer)
    opened = list(subjects.opened())
    before = [subjects.maps(explainer, of) for of in opened]
    vectors = [explainer.encode_images(of.image)[0] for of in opened]
    with TemporaryDirectory(prefix="eyeshine-weights-") as folder:
        for seed in options.seeds:
            copy = WeightCopy(explainer.bundle, Path(folder) / str(seed))
            for step in (ORIGINAL, *copy.steps):
                if step != ORIGINAL:
                    copy.randomise(step, seed, options.draw)
                elif seed != options.seeds[0]:
                    continue
                other = _like(explainer, copy.open())
                for of, maps, vector in zip(opened, before, vectors, strict=True):
                    cosine = float(other.encode_images(of.image)[0] @ vector)
                    yield from _rows(subjects, other, of, maps, {"seed": seed, "step": step, "embedding": cosine})
                # Sessions map the copy's files, which the next step writes over; they hold cycles.
                del other
                gc.collect()


def _like(explainer: Explainer, bundle: Bundle) -> Explainer:
    """An explainer of another bundle that prepares images and texts as this one does."""
    other = Explainer(
        bundle, explainer.options, backend=explainer.backend, templates=explainer.texts.templates, check=False
    )
    other.preprocess = explainer.preprocess
    return other


def _rows(subjects: Subjects, other: Explainer, of: Opened, before: Mapping[str, Found], facts: Row) -> Iterator[Row]:
    after = subjects.maps(other, of)
    for name in subjects.methods:
        first, second = before[name], after[name]
        for number, text in enumerate(of.texts):
            row = {"method": name, "key": of.key, "text": str(text), **facts}
            if isinstance(first, str) or isinstance(second, str):
                yield row | {"error": first if isinstance(first, str) else second}
            else:
                yield row | likeness(first[0][number], second[0][number])
