"""What methods share that change the tokens before the last blocks and look again: bundles with the group "hidden"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.methods.passes import Model, Subject

__all__ = [
    "LONGEST",
    "Tail",
    "batches",
    "directions",
    "hidden_tokens",
    "image_tail",
    "state_gradients",
    "tail_graphs",
    "text_tail",
]

LONGEST: Final = 3
"""Blocks of the longest tail that is exported."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tail:
    """The tokens of one image, or of one text, before the last blocks, and what follows them.

    Attributes:
        tokens: [T, D].
        targets: unit vectors [P, E] of the other side: texts of an image, images of a text.
        lengths: [P], what the cosines with them are multiplied by.
        gradients: dc/d(state) of states [n, T, D] for targets [P, E]: [n, P, T, D], one run.
    """

    tokens: Array
    targets: Array
    lengths: NDArray[np.float64]
    gradients: Callable[[NDArray[Any], Array], Array]


def image_tail(subject: Subject, model: Model, blocks: int) -> Tail:
    """What is explained of an image, from the tokens before its last ``blocks`` blocks."""
    texts, lengths = directions(subject)

    def gradients(states: NDArray[Any], targets: Array) -> Array:
        return state_gradients(model, blocks, states, targets)

    return Tail(hidden_tokens(subject, model, blocks), texts, lengths, gradients)


def text_tail(ids: NDArray[np.int64], images: Array, model: Model, blocks: int) -> Tail:
    """The same of a text, ids [L] from its start to its end token, for images [B, E]; start and end are tokens too."""
    hidden = model.run("text_hidden", {"tokens": ids[None]}, ["text_hidden"])["text_hidden"][0, -blocks]

    def gradients(states: NDArray[Any], targets: Array) -> Array:
        inputs, asked = {"text_state": states, "image": targets}, "text_state_gradient"
        return model.run(f"text_tail_{blocks}", inputs, [asked])[asked]

    return Tail(hidden, images, np.ones(len(images)), gradients)


def tail_graphs(blocks: int) -> frozenset[str]:
    """Graphs of a method that looks at the tokens before the last ``blocks`` blocks."""
    return frozenset({"hidden", f"tail_{blocks}"})


def directions(subject: Subject) -> tuple[Array, NDArray[np.float64]]:
    """The targets as unit vectors [P, E], and their lengths [P]: a target is its length times the cosine with it.

    A target of length 0 (a text against itself) gets a direction all the same; its gradient is 0 times that one's.
    """
    lengths = np.linalg.norm(subject.targets, axis=1)
    some = np.eye(1, subject.targets.shape[1])
    units = np.where(lengths[:, None] > 0, subject.targets / np.where(lengths > 0, lengths, 1)[:, None], some)
    return units.astype(np.float32), lengths


def hidden_tokens(subject: Subject, model: Model, blocks: int) -> Array:
    """The image's tokens before the last ``blocks`` blocks, [T, D]."""
    inputs = {"pixels": subject.pixels[None], "text": subject.prompts[:1]}
    hidden: Array = model.run("hidden", inputs, ["hidden"])["hidden"][0, -blocks]
    return hidden


def state_gradients(model: Model, blocks: int, states: NDArray[Any], text: Array) -> Array:
    """dc/d(state) of states [n, T, D] for texts [P, E], one run: [n, P, T, D]."""
    return model.run(f"tail_{blocks}", {"state": states, "text": text}, ["state_gradient"])["state_gradient"]


def batches(count: int, model: Model) -> list[slice]:
    """Full batches of ``count`` states, and what is left."""
    return [slice(at, min(at + model.max_batch, count)) for at in range(0, count, model.max_batch)]
