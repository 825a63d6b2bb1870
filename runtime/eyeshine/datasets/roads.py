"""Held-out scenes of the synthetic road world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, get_args

import numpy as np

from eyeshine import roads
from eyeshine.datasets.base import Content, Sample, Texts
from eyeshine.errors import OptionError
from eyeshine.roads.layout import Variant

__all__ = ["Roads"]

_FIRST = roads.HELD_OUT_FROM + 700_000  # the seeds below were used for model cards, settings and calibrations


@dataclass(frozen=True)
class Roads:
    """Scenes of consecutive seeds.

    Attributes:
        count: how many; not part of the description, so that a study can be carried on with more.
        first: the first seed, from ``roads.HELD_OUT_FROM`` on.
        variant: "plain", or "cluttered" with more than ten objects.
        texts: "label", the class with the most visible pixels; "labels", every class in the scene; "captions", its one.
        size: side of the picture in pixels.
    """

    count: int = 1000
    first: int = _FIRST
    variant: Variant = "plain"
    texts: Texts = "label"
    size: int = 224

    name: ClassVar[str] = "roads"

    def __post_init__(self) -> None:
        for what, value, least in (("count", self.count, 1), ("first", self.first, roads.HELD_OUT_FROM)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                cure = "the model was trained on the seeds below" if what == "first" else None
                raise OptionError(f"{what} is a whole number", got=repr(value), allowed=f"from {least} on", cure=cure)
        for what, name, allowed in (
            ("variant", self.variant, get_args(Variant)),
            ("texts", self.texts, get_args(Texts)),
        ):
            if name not in allowed:
                raise OptionError(f"unknown {what}", got=repr(name), allowed=", ".join(allowed))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(roads.article(label) for label in roads.LABELS)

    @property
    def gives(self) -> frozenset[str]:
        masked = frozenset({"mask", "contrast"}) if self.texts != "captions" else frozenset()
        return masked | {"label", "captions"}

    def __len__(self) -> int:
        return self.count

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """One scene each; its key is its seed."""
        for seed in range(self.first + start, self.first + self.count):
            yield Sample(str(seed), partial(self._open, seed))

    def describe(self) -> dict[str, Any]:
        """Everything but ``count``."""
        return {
            "dataset": self.name, "source": "eyeshine.roads", "split": "held-out seeds", "first": self.first,
            "variant": self.variant, "texts": self.texts, "size": self.size, "licence": "Apache-2.0",
        }  # fmt: skip

    def _open(self, seed: int) -> Content:
        scene = roads.render(seed=seed, size=self.size, variant=self.variant)
        masks = {
            label: np.stack([thing.mask for thing in scene.objects if thing.label == label])
            for label in dict.fromkeys(thing.label for thing in scene.objects)
        }
        largest = max(masks, key=lambda label: int(masks[label].sum()))
        label = roads.LABELS.index(largest)
        if self.texts == "captions":
            return Content(image=scene.image, texts=(scene.caption,), label=label, captions=(scene.caption,))
        chosen = [largest] if self.texts == "label" else list(masks)
        absent = [label for label in roads.LABELS if label not in masks]
        # A cluttered scene may hold every class; the draw of the others is part of the scene, not of a run.
        drawn = np.random.default_rng((seed, 2_000)).choice(absent, len(chosen)) if absent else None
        return Content(
            image=scene.image,
            texts=tuple(roads.article(label) for label in chosen),
            masks=tuple(masks[label] for label in chosen),
            negatives=None if drawn is None else tuple(roads.article(str(label)) for label in drawn),
            label=label,
            captions=(scene.caption,),
        )
