"""A captioner of a few training steps behind the responder's protocol."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyeshine import Bundle, roads
from eyeshine.captioner import Captioner
from eyeshine.captioner.bundle import CaptionerFiles
from eyeshine.errors import ImageError, TextError
from eyeshine.responder import CaptionerResponder, HypernymTable, Responder, Response

PROMPT = "what is on the road?"


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    from eyeshine_export.captioner import ship
    from eyeshine_export.captioner.data import Store, fill_store
    from eyeshine_export.captioner.train import Options, Trainer

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("captioner")
    fill_store(folder / "store", count=4)
    trainer = Trainer(Options(minutes=5, images=4, warmup=0.0, bf16=False), Store(folder / "store"))
    for _ in range(12):
        trainer.step()
    (folder / "run").mkdir()
    trainer.save(folder / "run")
    ship.export_captioner(folder / "run", folder / "shipped", Bundle.open())
    torch.set_num_threads(before)
    return Captioner(Bundle.open(), CaptionerFiles.open(folder / "shipped"))


def test_it_answers_what_the_captioner_answers(captioner):
    scene = roads.render(seed=7)
    responder: Responder = CaptionerResponder(captioner)
    response, said = responder.respond(scene.image, PROMPT), captioner.respond(scene.image, PROMPT)
    assert type(response) is Response
    assert (response.text, response.tokens, response.logprobs) == (said.text, said.tokens, said.logprobs)
    assert (response.model, response.complete) == (said.model, said.complete)
    assert response.wall_ms > 0
    assert len(response.tokens) == len(response.logprobs) > 0


def test_it_expands_by_its_table(captioner):
    assert "a car" in CaptionerResponder(captioner).expand("a vehicle")
    assert CaptionerResponder(captioner, HypernymTable({"pet": ("dog",)})).expand("pet") == ["dog"]


def test_what_cannot_be_asked(captioner):
    responder = CaptionerResponder(captioner)
    with pytest.raises(TextError):
        responder.respond(np.zeros((8, 8, 3), np.uint8), " ")
    with pytest.raises(ImageError):
        responder.respond(b"not an image", PROMPT)
