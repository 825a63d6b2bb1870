"""NIB and M2IB on the text side, words in, against open_clip's own text blocks, autograd and torch's Adam."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal, kl_divergence

from eyeshine import Explainer
from eyeshine.cli import main
from eyeshine.errors import OptionError, SignalError
from eyeshine.methods import M2ib, Nib
from oracle import cosines, relative
from tiny import tiny_config, tiny_model, tiny_source

TEXTS = ["a red car left of the house", "a dog"]
NIB, M2IB = Nib(blocks=2, steps=6), M2ib(steps=4, copies=3)


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def photos():
    return list(np.random.default_rng(0).integers(0, 256, (3, 60, 90, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def images(explainer, photos):
    return torch.from_numpy(explainer.encode_images(photos)).double()


class Text:
    """A text in open_clip's tower: its tokens before the last two blocks, and what those make of others."""

    def __init__(self, explainer, text):
        self.model = tiny_model(tiny_config()).double().requires_grad_(False)
        ids = torch.from_numpy(explainer.texts.tokenizer.encode([text]))[:, : len(text.split()) + 2]
        self.tokens = self.model.token_embedding(ids) + self.model.positional_embedding[: ids.shape[1]]
        self.mask = self.model.attn_mask[: ids.shape[1], : ids.shape[1]].double()

    def score(self, state, image):
        for block in self.model.transformer.resblocks:
            state = block(state, attn_mask=self.mask)
        return cosines(self.model.ln_final(state[:, -1]) @ self.model.text_projection, image[None])[0, 0]


def slow_nib(text, image):
    total = torch.zeros_like(text.tokens)
    for step in range(1, NIB.steps + 1):
        point = (text.tokens * step / NIB.steps).requires_grad_()
        total += torch.autograd.grad(text.score(point, image), point)[0]
    return (text.tokens * total / NIB.steps).sum(-1)[0, 1:-1].numpy()


def slow_m2ib(text, image):
    tokens, random = text.tokens[0], np.random.default_rng(M2IB.seed)
    alpha = torch.full_like(tokens, M2IB.start).requires_grad_()
    adam = torch.optim.Adam([alpha], lr=M2IB.rate)
    for _ in range(M2IB.steps):
        share = torch.sigmoid(alpha)
        drawn = torch.from_numpy(random.standard_normal((M2IB.copies, *tokens.shape), np.float32)).double()
        needed = kl_divergence(Normal(share * tokens, 1 - share), Normal(0.0, 1.0))
        scores = [text.score((share * tokens + (1 - share) * noise)[None], image) for noise in drawn]
        adam.zero_grad()
        (M2IB.beta * needed.mean() - torch.stack(scores).mean()).backward()
        adam.step()
    return needed.detach().sum(-1)[1:-1].numpy()


@pytest.mark.parametrize(("method", "slow"), [(NIB, slow_nib), (M2IB, slow_m2ib)], ids=["nib", "m2ib"])
def test_every_token_of_every_text_is_explained_for_every_image(explainer, photos, images, method, slow):
    found = explainer.explain(photos, TEXTS, method=method, side="text")
    assert found.relevance.shape == (3, 2, 7)
    for row, words in enumerate(TEXTS):
        text, count = Text(explainer, words), len(words.split())
        for column, image in enumerate(images):
            assert relative(found.relevance[column, row, :count], slow(text, image)) <= 1e-4
            assert found.similarities[column, row] == pytest.approx(float(text.score(text.tokens, image)), abs=1e-5)
        assert (found.relevance[:, row, count:] == 0).all()
    assert np.abs(found.relevance[0] - found.relevance[1]).max() > 1e-5
    assert (found.method, found.engine["graph"]) == (method.name, "text_tail_2")
    assert found.signed == (method is NIB)


def test_both_sides_in_one_call_and_names(explainer, photos):
    found = explainer.explain(photos[0], TEXTS, method="m2ib", side="both", max_batch=4)
    assert found.maps.shape == (1, 2, 4, 4)
    assert found.text_side.method == "m2ib"
    assert relative(found.similarities, found.text_side.similarities) <= 1e-5
    named = explainer.explain(photos[0], TEXTS, side="text", text_method="m2ib").relevance
    assert relative(found.text_side.relevance, named) <= 1e-4


def test_the_command_line_and_studies_take_them(tiny_bundle, photos, tmp_path, capsys):
    image = tmp_path / "one.png"
    Image.fromarray(photos[0]).save(image)
    (tmp_path / "captions.tsv").write_text("a red car\tone.png\n", "utf-8")
    bundle = ["-b", str(tiny_bundle), "--threads", "1"]
    data = ["--dataset", "captions", "--data", str(tmp_path / "captions.tsv"), "--preset", "confidence-text"]
    for arguments in (
        ["explain", str(image), "-t", TEXTS[0], "--side", "text", "-m", "nib", "--set", "blocks=2", *bundle],
        ["explain", str(image), "-t", TEXTS[0], "--side", "both", "-m", "m2ib", "--set", "steps=2", *bundle],
        ["evaluate", *data, "-m", "m2ib", "--set", "steps=2", "-o", str(tmp_path / "out"), *bundle],
        ["methods", "--side", "text", "nib", "-b", str(tiny_bundle)],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert not exit_.value.code, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "| m2ib |" in said
    assert "not in bundle" in said  # three blocks, where the tiny text tower has two
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *data, "-m", "nib", "-o", str(tmp_path / "none"), *bundle])
    assert exit_.value.code == 1
    assert "text_tail_3" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_explained_is_refused(explainer, photos, tmp_path):
    with pytest.raises(SignalError, match="text_tail_3"):  # the tiny text tower has two blocks
        explainer.explain(photos[0], TEXTS, method="nib", side="text")
    with pytest.raises(OptionError, match="rather than others"):
        explainer.explain(photos[0], TEXTS[:1], method=NIB, side="text", against=TEXTS[1:])
    from eyeshine_export.write import export_bundle

    export_bundle(tiny_source(), tmp_path / "plain")
    with pytest.raises(SignalError, match=r"text_tail_2.*--signals"):
        Explainer.load(tmp_path / "plain", threads=1).explain(photos[0], TEXTS, method=M2IB, side="text")
