"""Whether what a captioner says of a scene is true."""

from __future__ import annotations

import numpy as np

from eyeshine.captioner import Captioner, Seen
from eyeshine.captioner.words import END
from eyeshine.roads import LABELS, PHRASES, article
from eyeshine.roads.vocabulary import LABEL_OF
from eyeshine_export.captioner.questions import Truth, described
from eyeshine_export.captioner.tally import Tally

__all__ = ["DESCRIBE", "LIST", "check_answers", "present"]

DESCRIBE, LIST = "describe this image", "what is on the road?"


def check_answers(captioner: Captioner, seen: Seen, truth: Truth, tally: Tally, rng: np.random.Generator) -> None:
    """Ask everything but presence of labels (see ``present``) and count what is right."""
    _coloured(captioner, seen, truth, tally, rng)
    _description_words(captioner, seen, truth, tally)
    _named(captioner, seen, truth, tally)
    _facts(captioner, seen, truth, tally)


def present(captioner: Captioner, seen: Seen, truth: Truth, tally: Tally) -> list[str]:
    """Ask about every label; return those for which "yes" was said rightly."""
    right = []
    for label in LABELS:
        there = label in truth.labels
        said = captioner.respond(seen, f"is there {article(label)}?").text
        for name in ("presence", f"presence {label}"):
            tally.add(f"{name}, {'there' if there else 'absent'}", said == ("yes" if there else "no"))
        if there and said == "yes":
            right.append(label)
    return right


def _coloured(captioner: Captioner, seen: Seen, truth: Truth, tally: Tally, rng: np.random.Generator) -> None:
    """Every phrase that is there, and as many that are not: half of them another colour of a label that is there."""
    absent = [x for x in PHRASES if x not in truth.phrases]
    near = [x for x in absent if LABEL_OF[x] in truth.labels] or absent
    asked = [(x, True) for x in truth.phrases]
    asked += [(str(rng.choice(near if k % 2 else absent)), False) for k in range(len(truth.phrases))]
    for phrase, there in asked:
        said = captioner.respond(seen, f"is there {phrase}?").text
        tally.add(f"coloured, {'there' if there else 'absent'}", said == ("yes" if there else "no"))


def _description_words(captioner: Captioner, seen: Seen, truth: Truth, tally: Tally) -> None:
    """Whether each word of the true description is the likeliest one after the true words before it."""
    words, decoder = captioner.words, captioner.decoder
    asked, answer = words.prompt(DESCRIBE), [*words.encode(described(truth)), END]
    following = decoder.following(seen.memory, [*asked, *answer[:-1]])[len(asked) - 1 :]
    for right in following.argmax(axis=1) == answer:
        tally.add("description words", bool(right))


def _named(captioner: Captioner, seen: Seen, truth: Truth, tally: Tally) -> None:
    """Labels and phrases in what is said freely."""
    largest = {thing.label for thing in truth.things[:3]}
    for name, prompt, wanted in (("description", DESCRIBE, largest), ("list", LIST, set(truth.labels))):
        said = f" {captioner.respond(seen, prompt).text.replace(',', ' ')} "
        named = {label for label in LABELS if f" {label} " in said}
        for label in named:
            tally.add(f"{name} labels precision", label in truth.labels)
        for label in wanted:
            tally.add(f"{name} labels recall", label in named)
        for phrase in PHRASES:
            if name == "description" and f" {phrase} " in said:
                tally.add("description phrases", phrase in truth.phrases)


def _facts(captioner: Captioner, seen: Seen, truth: Truth, tally: Tally) -> None:
    """Colour and place of every label of which there is one object, weather and light."""
    asked = {("weather", "what is the weather?"): truth.weather, ("light", "what time of day is it?"): truth.light}
    for thing in truth.things:
        if sum(other.label == thing.label for other in truth.things) > 1:
            continue
        asked["place", f"where is the {thing.label}?"] = thing.place
        if thing.colour:
            asked["colour", f"what colour is the {thing.label}?"] = thing.colour
    for (about, prompt), answer in asked.items():
        tally.add(f"answer {about}", captioner.respond(seen, prompt).text == answer)
