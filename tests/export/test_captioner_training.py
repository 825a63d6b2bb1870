"""Training, export and scoring of a captioner, on a store of a few scenes."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch

from eyeshine import Bundle, roads
from eyeshine.captioner import Captioner, Response
from eyeshine.captioner.bundle import CaptionerFiles, default_captioner
from eyeshine.captioner.features import patch_features, tower_graph
from eyeshine.captioner.words import PAD
from eyeshine.engine import CpuOptions, open_session
from eyeshine.errors import BundleError, ExportError, OptionError, OutputError
from eyeshine.preprocess import Preprocess
from eyeshine_export.captioner import model as model_module
from eyeshine_export.captioner import ship
from eyeshine_export.captioner.data import Store, fill_store
from eyeshine_export.captioner.evaluate import score
from eyeshine_export.captioner.questions import Truth
from eyeshine_export.captioner.train import Options, Trainer, answer_loss, load
from oracle import relative

SCENES = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    fill_store(folder, count=SCENES)
    return Store(folder)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """The folder of a run of some steps, and its losses."""
    trainer = Trainer(Options(minutes=5, images=4, warmup=0.0, bf16=False), store)
    losses = [trainer.step() for _ in range(16)]
    folder = tmp_path_factory.mktemp("run")
    trainer.save(folder)
    return folder, losses, trainer


@pytest.fixture(scope="module")
def shipped(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "captioner"
    return out, ship.export_captioner(run[0], out, Bundle.open())


def test_a_store_holds_what_the_tower_sees(store):
    bundle = Bundle.open()
    session = open_session(bundle, tower_graph(bundle), CpuOptions(threads=1))
    scene = roads.render(seed=4)
    pixels = Preprocess.from_manifest(bundle.manifest.preprocess).prepare(scene.image).pixels
    assert relative(store.features[4].astype(np.float32), patch_features(session, pixels[None])[0]) < 1e-3  # float16
    assert store.truth(4) == Truth.of(scene)
    assert store.ready() == SCENES


def test_a_store_is_filled_up_and_not_again(store):
    before = store.features[2].copy()
    np.load(store.folder / "features.npy", mmap_mode="r+")[2] += 1
    fill_store(store.folder, count=SCENES)
    changed = Store(store.folder).features[2]
    assert relative(changed, before + 1) == 0
    np.load(store.folder / "features.npy", mmap_mode="r+")[2] = before


def test_held_out_scenes_are_not_trained_on(tmp_path):
    with pytest.raises(OptionError, match="may not be trained on"):
        fill_store(tmp_path, count=2, first=roads.HELD_OUT_FROM - 1)
    with pytest.raises(OptionError, match="no scenes"):
        Store(tmp_path)


def test_the_loss_by_slow_loops():
    random = np.random.default_rng(0)
    logits, targets = random.standard_normal((2, 3, 5, 7)), np.full((2, 3, 5), -100)
    targets[0, 0, 1:4], targets[0, 1, 4], targets[1, 2, :] = (3, 1, 6), 2, (0, 1, 2, 3, 4)
    total = weights = 0.0
    for image in range(2):
        for question in range(3):
            places = [t for t in range(5) if targets[image, question, t] >= 0]
            for t in places:
                row = logits[image, question, t]
                loss = np.log(np.exp(row).sum()) - row[targets[image, question, t]]
                total, weights = total + loss / len(places) ** 0.5, weights + len(places) ** -0.5
    assert float(answer_loss(torch.from_numpy(logits), torch.from_numpy(targets))) == pytest.approx(
        total / weights, 1e-6
    )


def test_training_learns(run):
    _, losses, trainer = run
    assert np.mean(losses[-3:]) < 0.75 * losses[0]
    assert losses[0] == pytest.approx(np.log(len(trainer.words.names)), rel=0.1)  # nothing known: every word alike


def test_a_run_is_read_back(run):
    folder, _, trainer = run
    model, words, facts = load(folder)
    assert words == trainer.words
    assert facts["steps"] == 16
    assert all(torch.equal(value, trainer.average[name]) for name, value in model.state_dict().items())
    with pytest.raises(OptionError, match="no captioner"):
        load(folder / "none")


def test_a_run_goes_on_from_another(run, store, tmp_path):
    folder, _, trainer = run
    later = Trainer(Options(minutes=1), store, folder)
    assert all(torch.equal(value, trainer.average[name]) for name, value in later.model.state_dict().items())
    partly = Trainer(Options(minutes=1), store, folder, ["places"]).model.state_dict()
    differing = [name for name, value in partly.items() if not torch.equal(value, trainer.average[name])]
    assert differing == ["places"]
    later.save(tmp_path / "later")
    assert load(tmp_path / "later")[2]["before"] == load(folder)[2]
    record = json.loads((folder / "config.json").read_text("utf-8"))
    record["words"] = [*record["words"][:-1], "zebra"]
    (tmp_path / "later" / "config.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(OptionError, match="another captioner"):
        Trainer(Options(minutes=1), store, tmp_path / "later")


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"minutes": 1, "images": 0}, {"minutes": 1, "ema": 1.0}])
def test_options_are_checked(wrong):
    with pytest.raises(OptionError):
        Options(**wrong)


def test_a_shape_is_checked():
    with pytest.raises(OptionError, match="heads"):
        model_module.Shape(words=9, patches=4, columns=2, features=6, width=10, heads=4)


def test_a_word_sees_no_later_word(run):
    model, _, _ = load(run[0])
    random = np.random.default_rng(0)
    keys, values = model.memory(torch.from_numpy(random.standard_normal((1, 196, 384), dtype=np.float32)))
    tokens = torch.from_numpy(random.integers(PAD + 1, 90, (1, 1, 12)))
    other = tokens.clone()
    other[..., 7:] = 1
    one, two = model(tokens, keys, values), model(other, keys, values)
    assert torch.equal(one[..., :7, :], two[..., :7, :])
    assert not torch.equal(one[..., 7:, :], two[..., 7:, :])


def test_what_is_shipped_opens_and_answers(shipped):
    out, manifest = shipped
    files = CaptionerFiles.open(out)
    assert files.manifest == manifest
    assert max(error for outputs in manifest.parity.values() for error in outputs.values()) <= 1e-4
    assert manifest.parity.keys() == {"memory", "decode", "explain"}
    response = Captioner(Bundle.open(), files).respond(roads.render(seed=0).image, "what is on the road?")
    assert len(response.tokens) > 0


def test_a_graph_that_disagrees_with_autograd_is_refused(shipped, run):
    out, _ = shipped
    weights = np.fromfile(out / "weights.bin", np.float32)
    model = load(run[0])[0]
    assert ship._check(out, model).keys() == {"memory", "decode", "explain"}
    try:
        (weights * np.float32(1.01)).tofile(out / "weights.bin")
        with pytest.raises(ExportError, match="disagrees with autograd"):
            ship._check(out, model)
        with pytest.raises(BundleError, match=r"weights\.bin"):
            CaptionerFiles.open(out)
    finally:
        weights.tofile(out / "weights.bin")


def test_only_a_captioner_is_replaced(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="not a captioner"):
        ship.export_captioner(run[0], tmp_path, Bundle.open())
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"


def test_scores_of_two_scenes(shipped):
    """An untrained captioner is scored like any other; what it answers is seldom right."""
    scores = score(CaptionerFiles.open(shipped[0]), Bundle.open(), 2, first=roads.HELD_OUT_FROM)
    assert scores.scenes == 2
    assert 0 <= scores.presence <= 1
    assert 0 <= scores.description_words < 0.9
    assert json.loads(json.dumps(scores.answers, allow_nan=False)) == scores.answers


def test_a_captioner_that_always_says_yes_is_worth_a_coin(shipped, monkeypatch):
    yes = Response("yes", ("yes",), (0.0,), "yes", 0.0)
    monkeypatch.setattr(Captioner, "respond", lambda *_, **__: yes)
    scores = score(CaptionerFiles.open(shipped[0]), Bundle.open(), 2, first=roads.HELD_OUT_FROM)
    assert scores.presence == scores.coloured_presence == 0.5
    assert set(scores.presence_by_label.values()) <= {0.5}
    assert scores.list_labels == {"recall": 0.0}
    assert scores.answers == dict.fromkeys(scores.answers, 0.0)
    assert scores.description_phrases is None
    shares = []
    for seed in (roads.HELD_OUT_FROM, roads.HELD_OUT_FROM + 1):
        scene = roads.render(seed=seed)
        for label in {thing.label for thing in scene.objects}:
            shares.append(sum(thing.mask.mean() for thing in scene.objects if thing.label == label))
    assert scores.pointing_chance == pytest.approx(np.mean(shares))
    assert len(scores.pointing) == 4


def shipped_model():
    """The shipped captioner as a PyTorch model, its weights taken out of the graphs."""
    files = CaptionerFiles.open()
    m = files.manifest
    arrays = {}
    for name in ("memory", "decode", "explain"):
        for key, value in ir.load(files.folder / f"{name}.onnx").graph.initializers.items():
            arrays[key] = torch.from_numpy(np.array(value.const_value.numpy()))
    features = arrays["read.weight"].shape[1]
    grid = (m.grid[0] * m.grid[1], m.grid[1])
    shape = model_module.Shape(len(m.words), *grid, features, m.width, m.heads, m.layers, m.context)
    model = model_module.Captioner(shape)
    model.load_state_dict({name: arrays[name] for name in model.state_dict()})
    return model


@pytest.mark.skipif(not default_captioner().exists(), reason="no captioner is embedded")
def test_the_map_of_the_shipped_captioner_by_autograd_and_slow_loops():
    captioner, scene = Captioner.load(threads=1), roads.render(seed=roads.HELD_OUT_FROM + 1)
    prompt = "describe this image"
    explanation = captioner.explain(scene.image, prompt)
    asked = captioner.words.prompt(prompt)
    ids = np.array([[*asked, *captioner.words.encode(explanation.response.text)]])
    response = np.zeros(ids.shape, np.float32)
    response[0, len(asked) :] = 1
    seen = captioner.see(scene.image)
    inputs = {"features": seen.memory.features[None], "tokens": ids, "response": response}
    wanted = ship.reference(shipped_model(), inputs)
    assert (
        relative(np.array(explanation.response.logprobs), wanted["explain"]["log_probabilities"][0, len(asked) :])
        < 1e-4
    )
    attention, gradient = wanted["explain"]["cross_attention"][0], wanted["explain"]["cross_gradient"][0]
    values = wanted["memory"]["values"][0].astype(np.float64)
    side = gradient.shape[-1] // attention.shape[1]
    heat = np.zeros(attention.shape[-1])
    for layer, head, row in np.ndindex(attention.shape[:3]):
        channels = slice(head * side, (head + 1) * side)
        u = values[layer, :, channels] @ gradient[layer, row, channels]
        heat += np.maximum(attention[layer, head, row] * u, 0)
    assert relative(explanation.map.reshape(-1), heat) < 1e-4
