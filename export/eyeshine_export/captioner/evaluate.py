"""Scores of a captioner on held-out scenes, by the runtime: what it says, where it points, what its answers rest on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyeshine import Bundle, roads
from eyeshine.captioner import Captioner
from eyeshine.captioner.bundle import CaptionerFiles
from eyeshine.engine import CpuOptions
from eyeshine.roads import LABELS
from eyeshine_export.captioner.answers import check_answers, present
from eyeshine_export.captioner.evidence import check_answer, check_responses
from eyeshine_export.captioner.questions import Truth
from eyeshine_export.captioner.tally import Tally

__all__ = ["FIRST", "Scores", "score"]

FIRST = roads.HELD_OUT_FROM + 710_000
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
            and mean change of the log-likelihood of "yes"; the same with the same shape of patches elsewhere.
        deletion: form, layers -> mean change of the log-likelihood of a description when the features of the 20
            hottest patches are replaced; "at random": of 20 patches drawn at random.
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
    deletion: dict[str, float]


def score(files: CaptionerFiles, bundle: Bundle, scenes: int, first: int = FIRST) -> Scores:
    """Ask about ``scenes`` scenes from seed ``first`` on, at their own resolution, on one thread."""
    captioner, tally, rng = Captioner(bundle, files, CpuOptions(threads=1)), Tally(), np.random.default_rng(0)
    for seed in range(first, first + scenes):
        scene = roads.render(seed=seed)
        seen, truth = captioner.see(scene.image), Truth.of(scene)
        for label in present(captioner, seen, truth, tally):
            check_answer(captioner, seen, scene, label, tally, rng)
        check_answers(captioner, seen, truth, tally, rng)
        check_responses(captioner, seen, scene, tally, rng)
    both = [label for label in LABELS if len(tally.under(f"presence {label}, ")) == 2]
    return Scores(
        scenes=scenes,
        presence=tally.balanced("presence"),
        presence_by_label={label: tally.balanced(f"presence {label}") for label in both},
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
        deletion=tally.under("deletion "),
    )
