"""From signals to a verdict: a chain of questions, each with one threshold, and the reasons in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from eyeshine.dual.thresholds import WITHOUT_MAPS, Thresholds

__all__ = ["KINDS", "NAMES", "Kind", "Signals", "Verdict", "decide"]

Kind = Literal["coherent", "divergent", "generic", "ambiguous", "guessed", "wrong_reason", "ungrounded", "none"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

NAMES: Final[dict[Kind, str]] = {
    "coherent": "coherent",
    "divergent": "divergent but valid",
    "generic": "generic prompt",
    "ambiguous": "ambiguous prompt",
    "guessed": "guessed",
    "wrong_reason": "right for the wrong reason",
    "ungrounded": "ungrounded",
    "none": "no verdict",
}
"""Kinds in words."""


@dataclass(frozen=True)
class Signals:
    """What the verdict is read from: of the model and the texts alone, nothing of the truth.

    Attributes:
        named: the prompt names a concept.
        scenery: the prompt names the scene alone ("a street", "snow").
        plural: the prompt asks for several ("cars").
        prompt_presence: log odds of the prompt's most present concept; None where it names none.
        answer_presence: log odds of the answer's least present concept; None where it names none.
        rival_presence: log odds of the most present concept that the prompt offered and the answer did not take; None
            where it took all.
        image: log odds of the most present candidate.
        text_similarity: the highest cosine of a concept of the prompt and one of the answer; None where one names none.
        blind_similarity: cosine of the answer's concept that is least like what was answered without the image, and
            the concept of that which is most like it; None if nobody was asked, or no concept was named.
        map_similarity: the highest Pearson correlation of their maps.
        prompt_second: see ``Shape``, of the prompt's map; None where it names several concepts.
        answer_focus, answer_largest: see ``Shape``, of the answer's map that is most in one place.
    """

    named: bool
    scenery: bool
    plural: bool
    prompt_presence: float | None
    answer_presence: float | None
    rival_presence: float | None
    image: float
    text_similarity: float | None
    blind_similarity: float | None
    map_similarity: float | None
    prompt_second: float | None
    answer_focus: float | None
    answer_largest: float | None


@dataclass(frozen=True)
class Verdict:
    """What a pair of prompt and answer turned out to be.

    Attributes:
        kind: one of ``KINDS``.
        reasons: sentences with the numbers that decided, the deciding one last.
    """

    kind: Kind
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """The kind in words."""
        return NAMES[self.kind]


def decide(signals: Signals, thresholds: Thresholds | None = None, *, maps: bool = True) -> Verdict:
    """Ask one question after the other; the first that is answered with yes decides.

    Was the image used? Is the answer's concept there? Does the prompt ask for something, for one of several things, for
    one of several instances? Does the answer's evidence lie in one place? Is it the prompt's place?

    Args:
        signals: of a request.
        thresholds: by default those calibrated with or without maps.
        maps: read the maps' signals; without them texts and similarities alone decide, for comparison.
    """
    t = thresholds or (Thresholds() if maps else WITHOUT_MAPS)
    if signals.answer_presence is None:
        return Verdict("none", ("because the answer names nothing that could be looked for in the image",))
    checks = (_guessed, _ungrounded, _vague, _offered)
    for check in (*checks, _several, _scattered) if maps else checks:
        if (found := check(signals, t)) is not None:
            return found
    return _compared(signals, t, maps)


def _guessed(s: Signals, t: Thresholds) -> Verdict | None:
    assert s.answer_presence is not None
    if s.image < t.image:
        shown = (
            f"the image shows nothing clearly: its most present candidate has log odds {s.image:.1f} (< {t.image:.1f})"
        )
        return Verdict("guessed", (shown, "so the answer, right or wrong, does not come from the image"))
    if s.blind_similarity is not None and s.blind_similarity >= t.blind:
        there = s.answer_presence >= t.presence
        same = f"without the image the answer is the same (cosine {s.blind_similarity:.2f} >= {t.blind:.2f})"
        truth = f"the guess is {'right' if there else 'wrong'}: {_presence(s.answer_presence, t)}"
        return Verdict("guessed", (truth, same))
    return None


def _ungrounded(s: Signals, t: Thresholds) -> Verdict | None:
    assert s.answer_presence is not None
    if s.answer_presence >= t.presence:
        return None
    return Verdict("ungrounded", (f"the answer names what is not in the image: {_presence(s.answer_presence, t)}",))


def _vague(s: Signals, t: Thresholds) -> Verdict | None:
    """A prompt that names nothing, or the scene alone, or a mood that the scene does not have."""
    if not s.named:
        return Verdict("generic", ("the prompt names no concept, so that every true answer fits it",))
    assert s.prompt_presence is not None
    if not s.scenery or (s.text_similarity is not None and s.text_similarity >= t.alike_text):
        return None
    if s.prompt_presence >= t.scenery:
        return Verdict("generic", ("the prompt names the scene alone, so that every true answer fits it",))
    odds = f"log odds {s.prompt_presence:.1f} (< {t.scenery:.1f})"
    return Verdict("ambiguous", (f"the prompt names no object, and a scene that is not this one: {odds}",))


def _offered(s: Signals, t: Thresholds) -> Verdict | None:
    if s.rival_presence is None or s.rival_presence < t.presence or s.text_similarity is None:
        return None
    if s.text_similarity < t.alike_text:
        return None
    left = f"one that the answer leaves out is there too, log odds {s.rival_presence:.1f} (>= {t.presence:.1f})"
    return Verdict("ambiguous", (f"the prompt offers several concepts, and {left}",))


def _several(s: Signals, t: Thresholds) -> Verdict | None:
    """Two places that hold most of the energy between them are two things; many that hold little are none."""
    if s.plural or s.prompt_second is None or s.prompt_second < t.second or not _alike(s, t):
        return None
    assert s.answer_focus is not None
    if s.answer_focus < t.focus:
        return None
    many = f"the prompt's map shows several places: the second has {s.prompt_second:.0%} of the first's energy"
    hot = f"and {s.answer_focus:.0%} (>= {t.focus:.0%}) of the answer's is in hot patches"
    return Verdict("ambiguous", (_there(s, t), f"{many} (>= {t.second:.0%}), {hot}"))


def _scattered(s: Signals, t: Thresholds) -> Verdict | None:
    assert s.answer_largest is not None
    if s.answer_largest >= t.largest:
        return None
    where = f"but no region of its map holds more than {s.answer_largest:.0%} of the energy (< {t.largest:.0%})"
    return Verdict("wrong_reason", (_there(s, t), where))


def _compared(s: Signals, t: Thresholds, maps: bool) -> Verdict:
    value, least = (s.map_similarity, t.alike_map) if maps else (s.text_similarity, t.alike_text)
    what = "maps (Pearson" if maps else "texts (cosine"
    assert value is not None
    if value < least:
        different = f"prompt and answer have different {what} {value:.2f} < {least:.2f})"
        if s.prompt_presence is not None and s.prompt_presence < t.presence:
            asked = f"what the prompt asks for is not in the image: {_presence(s.prompt_presence, t)}"
            return Verdict("divergent", (asked, _there(s, t), different))
        return Verdict("divergent", (_there(s, t), different))
    return Verdict("coherent", (_there(s, t), f"prompt and answer have alike {what} {value:.2f} >= {least:.2f})"))


def _alike(s: Signals, t: Thresholds) -> bool:
    return s.map_similarity is not None and s.map_similarity >= t.alike_map


def _there(s: Signals, t: Thresholds) -> str:
    assert s.answer_presence is not None
    return f"the answer's concept is there: {_presence(s.answer_presence, t)}"


def _presence(value: float, t: Thresholds) -> str:
    return f"log odds {value:.1f} ({'>=' if value >= t.presence else '<'} {t.presence:.1f})"
