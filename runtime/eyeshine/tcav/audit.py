"""A bias audit: how far a concept moves the similarity of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice, check_share, check_whole
from eyeshine.errors import OptionError
from eyeshine.images import ImageLike
from eyeshine.tcav.vector import ConceptVector, check_images

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Audit", "AuditOptions", "audit"]

Array = NDArray[np.float64]
Among = Literal["activations", "sphere"]
_LEAST = 3  # images whose activations vary in more than one direction


@dataclass(frozen=True)
class AuditOptions:
    """Settings of an audit.

    Attributes:
        step: epsilon: how far activations are moved to either side, in standard deviations of the concept, above 0.
        directions: how many random directions of the same length the concept is compared with, 19..10000.
        among: which: "activations", directions in which the images' own activations vary (random mixtures of them);
            "sphere", any direction at all. The first asks whether the concept does more than images differ anyway.
        level: what lies outside of the interval of random directions, between 0 and 1.
        seed: of the directions.
    """

    step: float = 1.0
    directions: int = 99
    among: Among = "activations"
    level: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.step, bool) or not isinstance(self.step, int | float) or not 0 < self.step <= 100:
            raise OptionError("step outside its range", got=repr(self.step), allowed="above 0, up to 100")
        check_whole("directions", self.directions, 19, 10_000)
        check_choice("kind of random directions", self.among, get_args(Among))
        check_share("level", self.level)
        check_whole("seed", self.seed, 0, 2**31)


@dataclass(frozen=True, eq=False)
class Audit:
    """What moving n images by a concept does to P prompts.

    Attributes:
        concept: its name.
        texts: the prompts.
        similarities: [n, P], cosines as they are.
        shifts: [n, P], cosine moved towards the concept less cosine moved away from it, by ``step`` deviations each.
        predicted: [n, P], the same from the derivative alone; where both differ the model bends within the step.
        random_shifts: [R, P], means over the images of the shifts along random directions of the same length.
        interval: [2, P], where ``1 - level`` of those lie.
        p_values: [P], share of all directions, the concept's own among them, that shift the mean as far either way.
        outside: [P], whether the mean shift lies outside of the interval.
    """

    concept: str
    texts: tuple[str, ...]
    similarities: Array
    shifts: Array
    predicted: Array
    random_shifts: Array
    interval: Array
    p_values: Array
    outside: NDArray[np.bool_]

    def record(self) -> dict[str, Any]:
        """Means over the images, for JSON."""
        return {
            "concept": self.concept,
            "prompts": [
                {
                    "text": text,
                    "similarity": round(float(self.similarities[:, prompt].mean()), 6),
                    "shift": round(float(self.shifts[:, prompt].mean()), 6),
                    "predicted": round(float(self.predicted[:, prompt].mean()), 6),
                    "interval": [round(float(edge), 6) for edge in self.interval[:, prompt]],
                    "p_value": float(self.p_values[prompt]),
                    "outside": bool(self.outside[prompt]),
                }
                for prompt, text in enumerate(self.texts)
            ],
        }


def audit(
    explainer: Explainer,
    concept: ConceptVector,
    images: Sequence[ImageLike],
    texts: Sequence[str],
    options: AuditOptions | None = None,
    *,
    truncate: bool = False,
    max_batch: int = 32,
) -> Audit:
    """Move images' activations along a concept and back, and see what prompts say of it.

    Args:
        explainer: of the bundle that the concept was learned on.
        concept: from ``train_concept``.
        images: 3 or more.
        texts: the prompts.
        options: how far, and what it is compared with.
        truncate: accept texts that are longer than the context and cut them.
        max_batch: most states of one run.

    Raises:
        InputError: too few images.
        OptionError: a concept of another bundle.
        TextError, SignalError: as ``Explainer.explain``.
    """
    options = options or AuditOptions()
    reader = concept.activations(explainer, max_batch)
    check_images("images", images, _LEAST)
    vectors = explainer.encode_texts(texts, truncate=truncate)
    tried = np.stack([concept.direction, *_random_directions(reader.read(images), options)])
    steps = (options.step * concept.spread * tried).astype(np.float32)
    similarities, shifts, predicted = [], [], []
    for batch in reader.tokens(images):
        cosines, slopes = reader.slopes(batch, vectors)
        similarities.append(cosines)
        predicted.append(2 * slopes @ steps[0])
        for tokens in batch:
            towards, away = np.split(reader.moved(tokens, np.concatenate([steps, -steps]), vectors), 2)
            shifts.append(towards.astype(np.float64) - away)
    each = np.stack(shifts)
    own, random = each[:, 0], each[:, 1:].mean(axis=0)
    mean = own.mean(axis=0)
    interval = np.quantile(random, [options.level / 2, 1 - options.level / 2], axis=0)
    as_far = (np.abs(random) >= np.abs(mean)).sum(axis=0)
    return Audit(
        concept.name, tuple(texts), np.concatenate(similarities).astype(np.float64), own,
        np.concatenate(predicted).astype(np.float64), random, interval, (1 + as_far) / (1 + len(random)),
        (mean < interval[0]) | (mean > interval[1]),
    )  # fmt: skip


def _random_directions(activations: NDArray[np.float32], options: AuditOptions) -> Array:
    """Random unit vectors [R, D]."""
    draw = np.random.default_rng(options.seed)
    count, width = activations.shape
    if options.among == "sphere":
        found = draw.standard_normal((options.directions, width))
    else:
        centred = activations.astype(np.float64) - activations.mean(axis=0, dtype=np.float64)
        found = draw.standard_normal((options.directions, count)) @ centred
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise OptionError("the images' activations do not vary", got="equal images", cure='among="sphere"')
    directions: Array = found / lengths
    return directions
