"""Scores of a captioner on held-out scenes, by the runtime: what it says, where it points, what its answers rest on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine import Bundle, roads
from eyeshine.captioner import Captioner, Form, MapOptions, Seen
from eyeshine.captioner.bundle import CaptionerFiles
from eyeshine.captioner.intervention import patches_in
from eyeshine.captioner.words import END
from eyeshine.engine import CpuOptions
from eyeshine.errors import OptionError
from eyeshine.roads import LABELS, PHRASES, Scene, article
from eyeshine.roads.vocabulary import LABEL_OF
from eyeshine_export.captioner.questions import Truth, described

__all__ = ["FIRST", "Scores", "score"]

FIRST = roads.HELD_OUT_FROM + 700_000
"""Seed of the first scene that is scored; nothing was chosen by looking at these."""


@dataclass(frozen=True)
class Scores:
    """Scores on ``scenes`` held-out scenes, each a share of 1; None, or no entry, for what never occurred.

    Attributes:
        scenes: how many, from seed ``FIRST`` on.
        presence: "is there a LABEL?", mean of the accuracies on present and on absent labels.
        presence_by_label: the same of every label.
        coloured_presence: the same with phrases that name a colour.
        description_words: of the words of the true description, the end included, those that are the likeliest next
            word after the true words before.
        description_labels, list_labels: precision and recall of the labels in what is said to "describe this image"
            and "what is on the road?"; a description names three objects, its recall is of the three largest.
        description_phrases: share of the phrases with a colour in descriptions that are true.
        answers: share of right answers about colour, place, weather and light.
        pointing: form, layers -> share of right "yes" answers whose hottest pixel is on an object of the label.
        word_pointing: the same of the words of labels in lists of objects, by the maps of single words.
        pointing_chance: share of the picture that these objects cover.
        intervention: with the features of the object of a right "yes" replaced: share of answers that turn to "no",
            and mean change of the log-likelihood of "yes"; the same with as many patches elsewhere.
    """

    scenes: int
    presence: float
    presence_by_label: dict[str, float]
    coloured_presence: float
    description_words: float
    description_labels: dict[str, float]
    list_labels: dict[str, float]
    description_phrases: float | None
    answers: dict[str, float]
    pointing: dict[str, float]
    word_pointing: dict[str, float]
    pointing_chance: float | None
    intervention: dict[str, float]


class _Tally:
    """Means under names."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self._values[name].append(float(value))

    def mean(self, name: str) -> float:
        return float(np.mean(self._values[name]))

    def mean_or_none(self, name: str) -> float | None:
        return self.mean(name) if self._values[name] else None

    def under(self, prefix: str) -> dict[str, float]:
        return {name[len(prefix) :]: self.mean(name) for name in self._values if name.startswith(prefix)}

    def balanced(self, name: str) -> float:
        """Mean of the accuracies on what is there and on what is not."""
        return (self.mean(f"{name}, there") + self.mean(f"{name}, absent")) / 2


def score(files: CaptionerFiles, bundle: Bundle, scenes: int, first: int = FIRST) -> Scores:
    """Ask about ``scenes`` scenes from seed ``first`` on, at their own resolution, on one thread."""
    captioner, tally = Captioner(bundle, files, CpuOptions(threads=1)), _Tally()
    rng = np.random.default_rng(0)
    for seed in range(first, first + scenes):
        scene = roads.render(seed=seed)
        seen, truth = captioner.see(scene.image), Truth.of(scene)
        _presence(captioner, seen, scene, truth, tally, rng)
        _coloured(captioner, seen, truth, tally, rng)
        _descriptions(captioner, seen, scene, truth, tally)
        _answers(captioner, seen, truth, tally)
    return Scores(
        scenes=scenes,
        presence=tally.balanced("presence"),
        presence_by_label={label: tally.balanced(f"presence {label}") for label in LABELS if _both(tally, label)},
        coloured_presence=tally.balanced("coloured"),
        description_words=tally.mean("description words"),
        description_labels=tally.under("description labels "),
        list_labels=tally.under("list labels "),
        description_phrases=tally.mean_or_none("description phrases"),
        answers=tally.under("answer "),
        pointing=tally.under("pointing "),
        word_pointing=tally.under("word pointing "),
        pointing_chance=tally.mean_or_none("chance"),
        intervention=tally.under("intervention "),
    )


def _both(tally: _Tally, label: str) -> bool:
    return len(tally.under(f"presence {label}, ")) == 2


def _layer_options(layers: int) -> dict[str, MapOptions]:
    """Both forms of the map, by all layers and by the last one alone."""
    last = tuple(float(layer == layers - 1) for layer in range(layers))
    return {
        f"{form}, {name}": MapOptions(form, strengths)
        for form, (name, strengths) in product(get_args(Form), (("all layers", None), ("last layer", last)))
    }


def _hit(heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
    """Whether the hottest pixel is on the mask; a map without evidence hits nothing."""
    return bool(heat.max() > 0 and mask.reshape(-1)[int(heat.argmax())])


def _presence(
    captioner: Captioner, seen: Seen, scene: Scene, truth: Truth, tally: _Tally, rng: np.random.Generator
) -> None:
    """Every label asked about; right "yes" answers explained, and their objects' features replaced."""
    for label in LABELS:
        there = label in truth.labels
        prompt = f"is there {article(label)}?"
        said = captioner.respond(seen, prompt).text
        for name in ("presence", f"presence {label}"):
            tally.add(f"{name}, {'there' if there else 'absent'}", said == ("yes" if there else "no"))
        if not there or said != "yes":
            continue
        mask = np.any([thing.mask for thing in scene.objects if thing.label == label], axis=0)
        tally.add("chance", mask.mean())
        for name, options in _layer_options(captioner.manifest.layers).items():
            explanation = captioner.explain(seen, prompt, "yes", options)
            tally.add(f"pointing {name}", _hit(explanation.heatmap(), mask))
        _intervene(captioner, seen, prompt, mask, tally, rng)


def _intervene(
    captioner: Captioner, seen: Seen, prompt: str, mask: NDArray[np.bool_], tally: _Tally, rng: np.random.Generator
) -> None:
    grid = captioner.manifest.grid
    try:
        patches = patches_in(mask, mask.shape, seen.crop, grid)
    except OptionError:  # no patch is covered by a quarter
        return
    free = np.flatnonzero(~patches)
    if len(free) < patches.sum():
        return
    elsewhere = np.zeros(patches.size, np.bool_)
    elsewhere[rng.choice(free, size=int(patches.sum()), replace=False)] = True
    side = (mask.shape[0] // grid[0], mask.shape[1] // grid[1])
    for name, chosen in (("object", patches), ("elsewhere", elsewhere.reshape(grid))):
        result = captioner.intervene(seen, prompt, np.kron(chosen, np.ones(side, np.bool_)))
        tally.add(f"intervention {name}: turned to no", result.after.text == "no")
        tally.add(f"intervention {name}: change of log-likelihood", result.log_likelihood_change)


def _coloured(captioner: Captioner, seen: Seen, truth: Truth, tally: _Tally, rng: np.random.Generator) -> None:
    """Every phrase that is there, and as many that are not: half of them another colour of a label that is there."""
    absent = [x for x in PHRASES if x not in truth.phrases]
    near = [x for x in absent if LABEL_OF[x] in truth.labels] or absent
    asked = [(x, True) for x in truth.phrases]
    asked += [(str(rng.choice(near if k % 2 else absent)), False) for k in range(len(truth.phrases))]
    for phrase, there in asked:
        said = captioner.respond(seen, f"is there {phrase}?").text
        tally.add(f"coloured, {'there' if there else 'absent'}", said == ("yes" if there else "no"))


def _labels_in(text: str) -> set[str]:
    """The labels that a text names, by whole words."""
    words = f" {text.replace(',', ' ')} "
    return {label for label in LABELS if f" {label} " in words}


def _descriptions(captioner: Captioner, seen: Seen, scene: Scene, truth: Truth, tally: _Tally) -> None:
    _teacher_forced(captioner, seen, truth, tally)
    largest = {thing.label for thing in truth.things[:3]}
    for name, prompt, wanted in (
        ("description", "describe this image", largest), ("list", "what is on the road?", set(truth.labels)),
    ):  # fmt: skip
        named = _labels_in(captioner.respond(seen, prompt).text)
        for label in named:
            tally.add(f"{name} labels precision", label in truth.labels)
        for label in wanted:
            tally.add(f"{name} labels recall", label in named)
    said = f" {captioner.respond(seen, 'describe this image').text.replace(',', ' ')} "
    for phrase in PHRASES:
        if f" {phrase} " in said:
            tally.add("description phrases", phrase in truth.phrases)
    _word_pointing(captioner, seen, scene, tally)


def _teacher_forced(captioner: Captioner, seen: Seen, truth: Truth, tally: _Tally) -> None:
    """Whether each word of the true description is the likeliest one after the true words before it."""
    words, decoder = captioner.words, captioner.decoder
    asked, answer = words.prompt("describe this image"), [*words.encode(described(truth)), END]
    following = decoder.following(seen.memory, [*asked, *answer[:-1]])[len(asked) - 1 :]
    for right in following.argmax(axis=1) == answer:
        tally.add("description words", bool(right))


def _word_pointing(captioner: Captioner, seen: Seen, scene: Scene, tally: _Tally) -> None:
    """The maps of the label words of a list; of two words of a label the last."""
    for name, options in _layer_options(captioner.manifest.layers).items():
        explanation = captioner.explain(seen, "what is on the road?", options=options)
        for label, place in _label_places(explanation.response.tokens):
            masks = [thing.mask for thing in scene.objects if thing.label == label]
            if masks:
                tally.add(f"word pointing {name}", _hit(explanation.heatmap(place), np.any(masks, axis=0)))


def _label_places(words: tuple[str, ...]) -> list[tuple[str, int]]:
    """Labels among words, with the place of each one's last word."""
    found = []
    for place in range(len(words)):
        for label in LABELS:
            parts = tuple(label.split())
            if words[max(0, place + 1 - len(parts)) : place + 1] == parts:
                found.append((label, place))
    return found


def _answers(captioner: Captioner, seen: Seen, truth: Truth, tally: _Tally) -> None:
    """Colour and place of every label of which there is one object, weather and light."""
    single = [thing for thing in truth.things if sum(x.label == thing.label for x in truth.things) == 1]
    asked = {("weather", "what is the weather?"): truth.weather, ("light", "what time of day is it?"): truth.light}
    for thing in single:
        asked["place", f"where is the {thing.label}?"] = thing.place
        if thing.colour:
            asked["colour", f"what colour is the {thing.label}?"] = thing.colour
    for (about, prompt), answer in asked.items():
        tally.add(f"answer {about}", captioner.respond(seen, prompt).text == answer)
