"""What maps are compared with: negative texts, a label set, masks; checked, and joined to cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.explanation import Explanation
from eyeshine.metrics.case import Case
from eyeshine.preprocess import CropBox
from eyeshine.texts import check_texts

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Truth", "cases", "covered"]

Masks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth:
    """What the maps of an explanation are compared with.

    Attributes:
        negatives: a text per image and explained text; the contrasts of an explanation that chose them by itself.
        labels: the label set.
        masks: per image and text, bool [K, H, W]; None where there is none.
        scored: what is scored in place of each explained text; None where it is that text.
    """

    negatives: tuple[tuple[str, ...], ...] | None
    labels: tuple[str, ...] | None
    masks: tuple[tuple[Masks, ...], ...] | None
    scored: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        explanation: Explanation,
        negative: str | Sequence[str] | None,
        labels: Sequence[str] | None,
        masks: Any,
        scored: str | Sequence[str] | None = None,
    ) -> Truth:
        """Check what a caller passed, see ``evaluate``.

        Raises:
            OptionError, TextError: of another length or shape, blank, or a text that is its own negative.
        """
        images, texts = len(explanation.images), explanation.texts
        others = None if scored is None else _one_each(scored, texts, "scored text")
        return cls(
            _contrasts(explanation) if negative is None else (_negatives(negative, others or texts),) * images,
            None if labels is None else tuple(dict.fromkeys(check_texts(labels, "label"))),
            None if masks is None else _masks(masks, explanation),
            others,
        )

    @property
    def given(self) -> frozenset[str]:
        """What there is, as metrics call it."""
        there = {"contrast": self.negatives, "labels": self.labels, "mask": self.masks}
        return frozenset(name for name, value in there.items() if value is not None)


def cases(explainer: Explainer, explanation: Explanation, truth: Truth, *, truncate: bool) -> Iterator[Case]:
    """One case per image and text, the texts of an image one after the other, made when they are asked for.

    Raises:
        OptionError: the explanation is of another bundle, or of images that were prepared in another way.
        TextError: a negative text or a label that cannot be encoded.
    """
    model = explainer.bundle.manifest.model
    # The text encoder embeds texts of one length together: all of them in one call.
    scored = truth.scored or explanation.texts
    texts = list(dict.fromkeys([*scored, *chain(*truth.negatives or ()), *(truth.labels or ())]))
    explainer.texts.reserve(len(truth.labels or ()))
    vectors = dict(zip(texts, explainer.encode_texts(texts, truncate=truncate), strict=True))
    mean = np.array(model.mean, np.float32)
    box = covered(explainer)
    for image, (photo, crop) in enumerate(zip(explanation.images, explanation.crops, strict=True)):
        prepared = explainer.preprocess.prepare(photo)
        if (prepared.crop.y0, prepared.crop.x0) != (crop.y0, crop.x0):
            cure = "evaluate with the explainer that explained"
            raise OptionError("the image was prepared in another way", got=prepared.crop, allowed=str(crop), cure=cure)
        for prompt, text in enumerate(scored):
            labels = None if truth.labels is None else tuple(dict.fromkeys([*truth.labels, text]))
            yield Case(
                photo=photo,
                crop=crop,
                pixels=prepared.pixels,
                box=box,
                map=explanation.maps[image, prompt],
                preprocess=explainer.preprocess,
                mean=mean,
                logit_scale=model.logit_scale,
                text=vectors[text],
                contrast=None if truth.negatives is None else vectors[truth.negatives[image][prompt]],
                labels=None if labels is None else np.stack([vectors[label] for label in labels]),
                truth=0 if labels is None else labels.index(text),
                masks=None if truth.masks is None else truth.masks[image][prompt],
            )


def covered(explainer: Explainer) -> CropBox:
    """The part of the model's input that whole patches fill."""
    manifest = explainer.bundle.manifest
    (height, width), patch, grid = explainer.preprocess.size, manifest.model.patch_size, manifest.grid
    return CropBox(0.0, float(grid[0] * patch[0]), 0.0, float(grid[1] * patch[1]), height, width)


def _contrasts(explanation: Explanation) -> tuple[tuple[str, ...], ...] | None:
    chosen = explanation.details.get("contrast")
    return None if chosen is None else tuple(tuple(choice.chosen for choice in row) for row in chosen)


def _one_each(given: str | Sequence[str], texts: tuple[str, ...], what: str) -> tuple[str, ...]:
    checked = check_texts([given] * len(texts) if isinstance(given, str) else given, what)
    if len(checked) != len(texts):
        raise OptionError(f"one {what} for all texts, or one for each", got=len(checked), allowed=str(len(texts)))
    return tuple(checked)


def _negatives(negative: str | Sequence[str], texts: tuple[str, ...]) -> tuple[str, ...]:
    checked = _one_each(negative, texts, "negative text")
    for text, other in zip(texts, checked, strict=True):
        if text == other:
            raise OptionError("a text is its own negative", got=repr(text), cure="take a text of another concept")
    return checked


def _masks(masks: Any, explanation: Explanation) -> tuple[tuple[Masks, ...], ...]:
    images, texts = len(explanation.images), len(explanation.texts)
    per_image = [masks] if images == 1 else masks
    if not isinstance(per_image, list | tuple) or len(per_image) != images:
        raise OptionError(
            "masks are a list, one entry per image", got=type(masks).__name__, allowed=f"{images} entries"
        )
    result = []
    for photo, entry in zip(explanation.images, per_image, strict=True):
        own = [entry] * texts if isinstance(entry, np.ndarray) else entry
        if not isinstance(own, list | tuple) or len(own) != texts:
            got = f"{len(own)} masks" if isinstance(own, list | tuple) else type(own).__name__
            raise OptionError(
                "an image takes one mask for all texts, or a list of one each", got=got, allowed=str(texts)
            )
        result.append(tuple(_mask(mask, photo.shape[:2]) for mask in own))
    return tuple(result)


def _mask(mask: Any, size: tuple[int, ...]) -> Masks:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim not in (2, 3) or mask.shape[-2:] != size:
        got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise OptionError("not a mask of the image", got=got, allowed=f"bool [H,W] or [objects,H,W] of {list(size)}")
    return mask[None] if mask.ndim == 2 else mask
