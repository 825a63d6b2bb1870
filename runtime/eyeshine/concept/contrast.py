"""Contrastive texts chosen by the model itself: what is in the image and least like the prompt (section III-F)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.concept.candidates import load_candidates
from eyeshine.errors import OptionError
from eyeshine.targets import Target, with_others
from eyeshine_kernels.products import matmul

__all__ = ["Contrast", "ContrastOptions", "contrast_target"]

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ContrastOptions:
    """How a contrastive text is chosen.

    Attributes:
        candidates: "street", "coco", a file with one text a line, or texts; for instance the words of a caption.
        top: how many of the most probable candidates count as present in the image; the paper names no number.

    Raises:
        OptionError: unknown candidates, or ``top`` below 1.
        TextError: a blank candidate, or none.
    """

    candidates: str | Path | Sequence[str] = "street"
    top: int = 10

    def __post_init__(self) -> None:
        if type(self.top) is not int or self.top < 1:
            raise OptionError("top must be a whole number", got=repr(self.top), allowed="1 and more")
        object.__setattr__(self, "candidates", load_candidates(self.candidates))


@dataclass(frozen=True)
class Contrast:
    """The choice for one image and text.

    Attributes:
        text: what is explained.
        chosen: what it is explained against.
        ranking: candidates that count as present, the least similar to the text first: (candidate, its probability in
            the image among all candidates, cosine with the text).
    """

    text: str
    chosen: str
    ranking: tuple[tuple[str, float, float], ...]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        ranking = [{"text": name, "present": p, "similarity": s} for name, p, s in self.ranking]
        return {"text": self.text, "contrast": self.chosen, "ranking": ranking}


def contrast_target(
    texts: Sequence[str],
    images: Array,
    encode: Callable[[Sequence[str]], Array],
    options: ContrastOptions,
    logit_scale: float,
) -> tuple[Target, list[list[Contrast]]]:
    """Choose a contrastive text for every image and text, and build the target "text rather than that".

    Present are the ``top`` candidates of highest softmax probability in the image; of them the one whose embedding is
    least similar to the text's is chosen, ties by the order of the candidates (readings A4).

    Args:
        texts: the P texts.
        images: unit embeddings [B, E].
        encode: texts to unit vectors.
        options: candidates and how many count as present.
        logit_scale: of the model, which turns cosines into logits.

    Returns:
        The target, its weights [B, P, Q] for each image its own, and the choices [B][P].

    Raises:
        OptionError: no candidate but the text itself.
    """
    candidates = load_candidates(options.candidates)
    vectors, wanted = encode(candidates), encode(texts)
    logits = logit_scale * matmul(images, vectors.T)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    alike = matmul(wanted, vectors.T)
    choices = [
        [_choose(text, candidates, row, alike[p], options.top) for p, text in enumerate(texts)] for row in probabilities
    ]
    prompts = with_others(texts, (choice.chosen for row in choices for choice in row))
    weights = np.zeros((len(images), len(texts), len(prompts)), np.float32)
    for b, row in enumerate(choices):
        for p, choice in enumerate(row):
            weights[b, p, p] += 1
            weights[b, p, prompts.index(choice.chosen)] -= 1
    return Target("text against a contrast chosen for each image", tuple(prompts), weights), choices


def _choose(text: str, candidates: Sequence[str], present: Array, alike: Array, top: int) -> Contrast:
    others = [index for index, candidate in enumerate(candidates) if candidate.lower() != text.lower()]
    if not others:
        raise OptionError(
            "no candidate to contrast with", got=f"{', '.join(candidates)} for {text!r}",
            cure="pass candidates other than the text",
        )  # fmt: skip
    likely = sorted(others, key=lambda index: -present[index])[:top]
    ranked = sorted(likely, key=lambda index: (alike[index], index))
    ranking = tuple((candidates[index], float(present[index]), float(alike[index])) for index in ranked)
    return Contrast(text, candidates[ranked[0]], ranking)
