"""Questions and answers about scenes, against the scenes themselves."""

import re
from collections import Counter

import numpy as np
import pytest

from eyeshine import roads
from eyeshine.captioner.words import ANSWER, END, PAD, SPECIAL, START, UNKNOWN, Words
from eyeshine.errors import OptionError
from eyeshine_export.captioner.questions import Truth, captioned, described, exam, listed, vocabulary
from eyeshine_export.captioner.train import sequence

SEEDS = range(40)
PRESENT = re.compile(r"(?:is there|do you see|is) (an? .+?)(?: in the image)?\?")


@pytest.fixture(scope="module")
def scenes():
    return [roads.render(seed=seed) for seed in SEEDS]


def answer_by_eye(scene, question):
    """The answer to a question, from objects and masks alone; None for questions that have many answers."""
    if match := PRESENT.fullmatch(question):
        asked = match[1]
        names = {thing.phrase for thing in scene.objects} | {roads.article(thing.label) for thing in scene.objects}
        return "yes" if asked in names else "no"
    if match := re.fullmatch(r"what colour is the (.+)\?", question):
        for thing in scene.objects:
            if thing.label == match[1]:
                return next(w for w in thing.phrase.split() if w not in f"a an in {thing.label}".split())
        return f"there is no {match[1]}"
    if match := re.fullmatch(r"where is the (.+)\?", question):
        for thing in scene.objects:
            if thing.label == match[1]:
                x = np.nonzero(thing.mask)[1].mean() + 0.5
                third = scene.image.shape[1] / 3
                return "left" if x < third else "middle" if x < 2 * third else "right"
        return f"there is no {match[1]}"
    if "weather" in question:
        return scene.weather
    if "day" in question:
        return scene.light
    return None


def test_every_answer_is_true(scenes):
    random, asked = np.random.default_rng(0), Counter()
    for scene in scenes:
        for question, answer in exam(Truth.of(scene), random):
            wanted = answer_by_eye(scene, question)
            assert wanted in (None, answer), (scene.seed, question)
            asked[question.split()[0], answer in ("yes", "no")] += wanted is not None
    assert asked["is", True] > 50
    assert min(asked["where", False], asked["what", False]) > 20


def test_a_question_about_colour_or_place_has_one_answer(scenes):
    random = np.random.default_rng(1)
    for scene in scenes:
        counts = Counter(thing.label for thing in scene.objects)
        for question, _ in exam(Truth.of(scene), random):
            if match := re.fullmatch(r"(?:what colour|where) is the (.+)\?", question):
                assert counts[match[1]] <= 1


def test_yes_and_no_are_balanced(scenes):
    random, answers = np.random.default_rng(2), Counter()
    for scene in scenes * 5:
        answers.update(answer for _, answer in exam(Truth.of(scene), random) if answer in ("yes", "no"))
    assert abs(answers["yes"] / answers.total() - 0.5) < 0.05


def test_descriptions_and_lists_name_what_is_there(scenes):
    for scene in scenes:
        truth = Truth.of(scene)
        largest = sorted(scene.objects, key=lambda thing: -int(thing.mask.sum()))
        named = list(dict.fromkeys(thing.phrase for thing in largest))[:3]
        text = described(truth)
        assert [text.index(phrase) for phrase in named] == sorted(text.index(phrase) for phrase in named)
        assert text.startswith(named[0])
        assert set(re.split(r", | and ", listed(truth))) == {thing.label for thing in scene.objects}


def test_a_caption_is_one_of_the_roads_captions(scenes):
    for scene in scenes[:10]:
        truth = Truth.of(scene)
        assert (
            captioned(truth, np.random.default_rng(5))
            == roads.captions(scene.facts, np.random.default_rng(5), 1)[0].text
        )


def test_truth_is_kept_as_plain_values(scenes):
    truth = Truth.of(scenes[0])
    assert Truth.from_record(truth.as_record()) == truth
    assert truth.facts() == scenes[0].facts


def test_every_word_is_known_and_every_exchange_fits(scenes):
    words, random = Words((*SPECIAL, *vocabulary())), np.random.default_rng(3)
    longest = 0
    for scene in scenes:
        for exchange in exam(Truth.of(scene), random):
            assert words.unknown(" ".join(exchange)) == []
            assert words.decode(words.encode(exchange[1])) == exchange[1]
            longest = max(longest, int((sequence(words, exchange, 32)[0] != PAD).sum()))
    assert 20 < longest <= 32
    assert len(words.names) < 200


def test_each_place_of_an_answer_predicts_its_next_word():
    words = Words((*SPECIAL, "is", "there", "a", "car", "?", "yes", "no"))
    tokens, targets = sequence(words, ("Is there a § car?", "yes"), 12)
    assert tokens.tolist() == [START, 5, 6, 7, UNKNOWN, 8, 9, ANSWER, 10, END, PAD, PAD]
    assert targets.tolist() == [-100] * 7 + [10, END] + [-100] * 3
    with pytest.raises(OptionError, match=r"too long.*10 words.*up to 9"):
        sequence(words, ("Is there a § car?", "yes"), 9)
