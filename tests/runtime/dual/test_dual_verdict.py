"""The rule, question by question, on signals written by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from eyeshine.dual import Signals, Thresholds, decide
from eyeshine.errors import OptionError

T = Thresholds(
    presence=3.0, image=8.0, scenery=2.0, alike_text=0.3, blind=0.5, alike_map=0.6, focus=0.4, largest=0.4, second=0.4
)
GOOD = Signals(
    named=True,
    scenery=False,
    plural=False,
    prompt_presence=6.0,
    answer_presence=6.0,
    rival_presence=None,
    image=10.0,
    text_similarity=0.8,
    blind_similarity=None,
    map_similarity=0.9,
    prompt_second=0.1,
    answer_focus=0.8,
    answer_largest=0.7,
)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "coherent"),
        ({"map_similarity": 0.1}, "divergent"),
        ({"map_similarity": 0.1, "prompt_presence": -4.0}, "divergent"),  # figure 8: what was asked for is not there
        ({"named": False, "prompt_presence": None, "text_similarity": None, "map_similarity": None}, "generic"),
        ({"scenery": True, "text_similarity": 0.1}, "generic"),
        ({"scenery": True, "text_similarity": 0.9}, "coherent"),  # "is there a street?" "a street"
        ({"scenery": True, "text_similarity": 0.1, "prompt_presence": -1.0}, "ambiguous"),  # figure 10
        ({"rival_presence": 5.0}, "ambiguous"),
        ({"rival_presence": 1.0}, "coherent"),
        ({"rival_presence": 5.0, "text_similarity": 0.0, "map_similarity": 0.0}, "divergent"),
        ({"prompt_second": 0.9}, "ambiguous"),
        ({"prompt_second": 0.9, "plural": True}, "coherent"),
        ({"prompt_second": 0.9, "answer_largest": 0.3}, "ambiguous"),  # two regions share what one would hold
        ({"prompt_second": 0.9, "answer_largest": 0.3, "answer_focus": 0.3}, "wrong_reason"),  # and many hold little
        ({"prompt_second": 0.9, "map_similarity": 0.1}, "divergent"),
        ({"prompt_second": None}, "coherent"),
        ({"image": 2.0}, "guessed"),
        ({"blind_similarity": 0.9}, "guessed"),
        ({"blind_similarity": 0.1}, "coherent"),
        ({"answer_largest": 0.1}, "wrong_reason"),
        ({"answer_presence": 0.0}, "ungrounded"),
        ({"answer_presence": 0.0, "blind_similarity": 0.9}, "guessed"),
        ({"answer_presence": None, "text_similarity": None, "map_similarity": None}, "none"),
    ],
)
def test_each_question_decides(changed, kind):
    verdict = decide(replace(GOOD, **changed), T)
    assert verdict.kind == kind
    assert verdict.reasons
    assert all(verdict.reasons)


def test_reasons_hold_the_numbers_that_decided():
    (reason,) = decide(replace(GOOD, answer_presence=1.25), T).reasons
    assert "1.2 (< 3.0)" in reason
    wrong = decide(replace(GOOD, answer_presence=1.0, blind_similarity=0.93), T)
    assert "wrong" in wrong.reasons[0]
    assert "0.93 >= 0.50" in wrong.reasons[1]
    absent = decide(replace(GOOD, map_similarity=0.1, prompt_presence=-4.0), T)
    assert "asks for is not in the image: log odds -4.0 (< 3.0)" in absent.reasons[0]
    assert "right" in decide(replace(GOOD, blind_similarity=0.93), T).reasons[0]


def test_without_maps_their_signals_change_nothing():
    without = replace(GOOD, map_similarity=None, prompt_second=None, answer_focus=None, answer_largest=None)
    scattered = replace(GOOD, map_similarity=-1.0, prompt_second=1.0, answer_focus=0.0, answer_largest=0.0)
    assert decide(without, T, maps=False) == decide(scattered, T, maps=False) == decide(GOOD, T, maps=False)
    assert decide(GOOD, T, maps=False).kind == "coherent"
    assert decide(replace(GOOD, text_similarity=0.1), T, maps=False).kind == "divergent"


@pytest.mark.parametrize("name", [field.name for field in fields(Thresholds)])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "0.5", True, None])
def test_thresholds_check_themselves(name, wrong):
    with pytest.raises(OptionError, match=name):
        Thresholds(**{name: wrong})
