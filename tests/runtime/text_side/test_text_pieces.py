"""Tokens of a text with their places, and the words that they make up."""

from __future__ import annotations

import random

import numpy as np
import pytest

from eyeshine.errors import TextError
from eyeshine.tokenizer import Tokenizer
from eyeshine_export.tokenizer import clip_tokenizer_json, clip_tokenizer_settings


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(clip_tokenizer_json(), "utf-8")
    return Tokenizer.load(path, **clip_tokenizer_settings())


def test_tokens_ids_places_and_words_of_a_caption(clip):
    """Ids of the caption in Grad-ECLIP's notebook, from CLIP's published vocabulary: 'dog' is 1929, 'lights' 3073."""
    pieces = clip.pieces("Dog in a  car waiting for traffic LIGHTS.")
    assert pieces.text == "dog in a car waiting for traffic lights."
    tokens = ["dog", "in", "a", "car", "waiting", "for", "traffic", "lights", "."]
    assert pieces.names == tuple(f"{token}</w>" for token in tokens)
    assert (pieces.ids[0], pieces.ids[7], len(pieces.ids)) == (1929, 3073, 9)
    assert [pieces.text[a:b] for a, b in pieces.spans] == tokens
    assert pieces.words[-1] == ("lights.", (7, 8))
    assert np.array_equal(pieces.row, clip.encode(["Dog in a  car waiting for traffic LIGHTS."])[0])


def test_several_tokens_make_a_word_and_every_token_is_of_one_word(clip):
    draw = random.Random(3)
    parts = ["photosynthesizingly", "naïve", "漢字", "😀👩‍👩‍👧‍👦", "it's", "a", "T-shirt,", "42!!", "&amp;", "Zürich"]
    for _ in range(40):
        text = " ".join(draw.choices(parts, k=draw.randint(1, 6)))
        pieces = clip.pieces(text)
        assert [word for word, _ in pieces.words] == pieces.text.split()
        assert [k for _, places in pieces.words for k in places] == list(range(len(pieces.names)))
        for word, places in pieces.words:
            begin, stop = pieces.spans[places[0]][0], pieces.spans[places[-1]][1]
            assert pieces.text[begin:stop] == word


def test_a_text_is_read_up_to_the_first_end_and_a_long_one_to_where_it_is_cut(clip):
    spelled = clip.pieces("a dog <end_of_text> and a cat")
    assert spelled.names == ("a</w>", "dog</w>")
    assert [word for word, _ in spelled.words] == ["a", "dog"]
    with pytest.raises(TextError, match="truncate"):
        clip.pieces("dog " * 100)
    cut = clip.pieces("dog " * 100, truncate=True)
    assert len(cut.names) == len(cut.ids) == 75
    assert cut.row[76] == clip.end
    assert len(cut.words) == 75
    assert len(cut.text.split()) == 100


def test_a_blank_text_has_no_tokens(clip):
    assert clip.pieces(" ").names == ()
    assert clip.pieces(" ").words == ()
