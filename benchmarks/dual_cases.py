"""Planted cases of dual explainability: road scenes where it is known what the verdict has to be.

What a case is follows from the scene's masks and, where it is about evidence, from where the model's own map lies on
them: a map lies *on* an object where at least 65 % of its energy is within one patch of the mask, and *off* it where at
most 35 % is. What lies between is planted nowhere. None of this is handed to the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine import Explainer, roads
from eyeshine.dual import Kind
from eyeshine.roads import LABELS, PHRASES, Scene, SceneObject, article
from eyeshine.roads.vocabulary import LABEL_OF

__all__ = ["Case", "plant"]

Array = NDArray[np.float32]

ON, OFF = 0.65, 0.35  # of a map's energy
LEAST_AREA: Final = 0.015  # of the picture; what a case names is to be seen
LEAST_APART: Final = 0.28  # of the picture's side, between the centres of two instances
LEAST_LIT: Final = 0.4  # the weaker of two instances has this share of the stronger one's energy
NOISE: Final = 8.0  # standard deviation of a covered camera's pixels, of 255

_ASK: Final = ("is there {}?", "do you see {}?", "can you see {} in this image?", "where is {}?")
_SAY: Final = ("{}", "there is {}", "{} on the road", "yes, there is {}.")
_GENERIC: Final = (
    "describe this image",
    "what do you see?",
    "a photo of a street",
    "a road",
    "what is in the picture?",
)
_MOODS: Final = {"snow": "I don't like snow.", "rain": "I like the rain.", "fog": "fog makes me sad"}


@dataclass(frozen=True, eq=False)
class Case:
    """A request whose verdict is known.

    Attributes:
        seed: of the scene.
        image: uint8 [H, W, 3].
        prompt, answer: the request.
        blind_answer: what was answered without the image, or None.
        kind: the verdict that is right.
        variant: how it was planted.
    """

    seed: int
    image: NDArray[np.uint8]
    prompt: str
    answer: str
    blind_answer: str | None
    kind: Kind
    variant: str


class Stage:
    """A scene with the model's maps of what stands in it."""

    def __init__(self, explainer: Explainer, scene: Scene, rng: np.random.Generator) -> None:
        self.scene, self.rng = scene, rng
        labels = [thing.label for thing in scene.objects]
        self.absent = [label for label in LABELS if label not in labels]
        self.seen = [thing for thing in scene.objects if thing.mask.mean() >= LEAST_AREA]
        self.single = [thing for thing in self.seen if labels.count(thing.label) == 1]
        texts = list(dict.fromkeys([t for thing in self.seen for t in (article(thing.label), thing.phrase)]))
        maps = explainer.explain(scene.image, texts).maps[0] if texts else np.zeros((0, 1, 1), np.float32)
        self.maps = dict(zip(texts, maps, strict=True))

    def share(self, text: str, thing: SceneObject) -> float:
        """The share of a map's energy within one patch of an object; 0 for a map without energy."""
        values = self.maps[text]
        return float((values * _near(thing.mask, values.shape)).sum() / max(float(values.sum()), 1e-9))

    def things(self, *, on: bool) -> list[SceneObject]:
        """Objects, the only ones of their label, whose maps all lie on them; or all off them."""
        found = []
        for thing in self.single:
            shares = [self.share(text, thing) for text in (article(thing.label), thing.phrase)]
            if min(shares) >= ON if on else max(shares) <= OFF:
                found.append(thing)
        return [found[k] for k in self.rng.permutation(len(found))]

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def ask(self, what: str) -> str:
        return self.pick(_ASK).format(what)

    def say(self, thing: SceneObject) -> str:
        return self.pick(_SAY).format(self.pick((thing.phrase, article(thing.label))))

    def say_absent(self, label: str) -> str:
        named = [article(label), *(phrase for phrase in PHRASES if LABEL_OF[phrase] == label)]
        return self.pick(_SAY).format(self.pick(named))


@dataclass(frozen=True)
class Planted:
    """What a planter makes of a scene; ``named`` is the label that the answer names."""

    prompt: str
    answer: str
    named: str
    guess: str | None = None  # the same concept without the image, in other words


Planter = Callable[[Stage], Planted | None]


def _about(stage: Stage, prompt: str, thing: SceneObject) -> Planted:
    return Planted(prompt, stage.say(thing), thing.label)


def _one_object(stage: Stage) -> Planted | None:
    things = stage.things(on=True)
    return _about(stage, stage.ask(article(things[0].label)), things[0]) if things else None


def _two_objects(stage: Stage) -> Planted | None:
    things = stage.things(on=True)
    return _about(stage, stage.ask(article(things[1].label)), things[0]) if len(things) > 1 else None


def _asked_of_absent(stage: Stage) -> Planted | None:
    """As in the paper's figure 8: no pedestrian is there, and the answer names what is."""
    things = stage.things(on=True)
    return _about(stage, stage.ask(article(stage.pick(stage.absent))), things[0]) if things else None


def _nothing_named(stage: Stage) -> Planted | None:
    things = stage.things(on=True)
    return _about(stage, stage.pick(_GENERIC), things[0]) if things else None


def _several_instances(stage: Stage) -> Planted | None:
    """Two instances of a label that stand apart and that the model's map shows both; the answer means one."""
    for label in dict.fromkeys(thing.label for thing in stage.seen):
        every = [thing for thing in stage.scene.objects if thing.label == label]
        if len(every) != 2 or min(thing.mask.mean() for thing in every) < LEAST_AREA:
            continue
        centres = [np.argwhere(thing.mask).mean(axis=0) / len(thing.mask) for thing in every]
        low, high = sorted(stage.share(article(label), thing) for thing in every)
        if np.linalg.norm(centres[0] - centres[1]) >= LEAST_APART and low >= LEAST_LIT * high and low + high >= ON:
            return _about(stage, stage.ask(article(label)), every[int(stage.rng.integers(2))])
    return None


def _several_candidates(stage: Stage) -> Planted | None:
    things = stage.things(on=True)[:2]
    prompt = stage.ask(" or ".join(article(thing.label) for thing in things))
    return _about(stage, prompt, things[int(stage.rng.integers(2))]) if len(things) == 2 else None


def _mood(stage: Stage) -> Planted | None:
    """As in the paper's figure 10: an opinion about weather that the scene does not have."""
    things = stage.things(on=True)
    moods = [text for weather, text in _MOODS.items() if weather != stage.scene.weather]
    return _about(stage, stage.pick(moods), things[0]) if things else None


def _right_guess(stage: Stage) -> Planted | None:
    things = stage.things(on=True)
    if not things:
        return None
    return replace(_about(stage, stage.ask(article(things[0].label)), things[0]), guess=stage.say(things[0]))


def _wrong_guess(stage: Stage) -> Planted | None:
    label = stage.pick(stage.absent)
    return Planted(stage.ask(article(label)), stage.say_absent(label), label, stage.say_absent(label))


def _off_the_object(stage: Stage) -> Planted | None:
    things = stage.things(on=False)
    return _about(stage, stage.ask(article(things[0].label)), things[0]) if things else None


def _absent_as_asked(stage: Stage) -> Planted | None:
    label = stage.pick(stage.absent)
    return Planted(stage.ask(article(label)), stage.say_absent(label), label)


def _absent_not_asked(stage: Stage) -> Planted | None:
    if not stage.seen:
        return None
    label, asked = stage.pick(stage.absent), stage.seen[int(stage.rng.integers(len(stage.seen)))].label
    return Planted(stage.ask(article(asked)), stage.say_absent(label), label)


_PLANT: Final[dict[Kind, dict[str, Planter]]] = {
    "coherent": {"one object": _one_object},
    "divergent": {"two objects": _two_objects, "asked about what is absent": _asked_of_absent},
    "generic": {"nothing named": _nothing_named},
    "ambiguous": {
        "several instances": _several_instances,
        "several candidates": _several_candidates,
        "a mood": _mood,
    },
    "guessed": {
        "right, without the image": _right_guess,
        "wrong, without the image": _wrong_guess,
        "right, camera covered": _right_guess,
        "wrong, camera covered": _wrong_guess,
    },
    "wrong_reason": {"map off the object": _off_the_object},
    "ungrounded": {"absent, as asked": _absent_as_asked, "absent, not as asked": _absent_not_asked},
}


def plant(explainer: Explainer, first_seed: int) -> Iterator[Case]:
    """Cases without end, each on a scene of its own, the kinds in turn and the variants of each in turn.

    A scene in which what is due cannot be planted is passed over. Half of the cases come with an answer that was given
    without the image: in other words for a guess, elsewhere another label at random, for an answer that stays the same
    without the image is what a guess is. A covered camera comes without one.

    Args:
        explainer: of the roads bundle.
        first_seed: of the first scene; held out from ``roads.HELD_OUT_FROM`` on.
    """
    seeds = count(first_seed)
    for turn in count():
        for kind, variants in _PLANT.items():
            variant = list(variants)[turn % len(variants)]
            yield next(case for seed in seeds if (case := _case(explainer, seed, kind, variant)) is not None)


def _case(explainer: Explainer, seed: int, kind: Kind, variant: str) -> Case | None:
    rng = np.random.default_rng((seed, 4))
    stage = Stage(explainer, roads.render(seed=seed), rng)
    planted = _PLANT[kind][variant](stage)
    if planted is None:
        return None
    others = [article(label) for label in LABELS if label != planted.named]
    blind = planted.guess or (stage.pick(others) if rng.random() < 0.5 else None)
    image = stage.scene.image
    if variant.endswith("covered"):
        image, blind = _covered(image, rng), None
    return Case(seed, image, planted.prompt, planted.answer, blind, kind, variant)


def _covered(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a covered camera sees: the mean colour and noise."""
    flat = image.reshape(-1, 3).mean(axis=0) + rng.normal(0.0, NOISE, image.shape)
    return np.asarray(np.clip(flat.round(), 0, 255), np.uint8)


def _near(mask: NDArray[np.bool_], grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Patches that hold a pixel in 20 of the object or have a neighbour that does."""
    rows, columns = (np.array_split(np.arange(size), cells) for size, cells in zip(mask.shape, grid, strict=True))
    held = np.array([[mask[np.ix_(y, x)].mean() > 0.05 for x in columns] for y in rows])
    padded = np.pad(held, 1)
    around = [padded[y : y + grid[0], x : x + grid[1]] for y in range(3) for x in range(3)]
    return np.asarray(np.any(around, axis=0))
