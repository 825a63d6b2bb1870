"""Candidates from a description, and the pictures of heads that are written beside the others."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from eyeshine import roads
from eyeshine.cli import main
from eyeshine.concept.described import QUESTION, described
from eyeshine.errors import ResponderError
from eyeshine.responder import Response


class Says:
    """A responder with one answer."""

    def __init__(self, text):
        self.text, self.asked = text, []

    def respond(self, image, prompt):
        self.asked.append(prompt)
        return Response(self.text, (), None, "one answer", 0.0)


def test_what_a_description_names_are_candidates():
    responder = Says("a red car, two dogs and a tree beside the road, but no bus")
    assert described(responder, None) == ("a red car", "dogs", "a tree")
    assert described(responder, None, "what is there?") == ("a red car", "dogs", "a tree")
    assert responder.asked == [QUESTION, "what is there?"]
    with pytest.raises(ResponderError, match="names nothing"):
        described(Says("yes"), None)


def test_the_captioner_names_the_candidates_on_the_command_line(tmp_path, capsys):
    scene = roads.render(seed=1_000_000_003)
    Image.fromarray(scene.image).save(tmp_path / "street.png")
    arguments = ["explain", str(tmp_path / "street.png"), "-t", "a car", "-m", "concept_attribution", "--json"]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--against-auto", "--candidates", "caption", "--out", str(tmp_path / "out")])
    assert not exit_.value.code
    record = json.loads(capsys.readouterr().out)
    named = {row["text"] for row in record["contrast"][0]["ranking"]}
    assert named
    assert named <= {roads.article(label) for label in roads.LABELS}
    assert "a car" not in named
    assert any(name.endswith(".heads-1.png") for name in record["outputs"])
    assert (tmp_path / "out" / "street.heads-1.png").is_file()
