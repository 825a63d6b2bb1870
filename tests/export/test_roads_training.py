"""Training on roads: what the model is told, that a run learns and resumes, and that the scorers score right."""

import json

import numpy as np
import pytest
import torch

from eyeshine import roads
from eyeshine.errors import OptionError
from eyeshine_export.roads import data, scores, texts
from eyeshine_export.roads.config import END, START, UNKNOWN, Options, Shape, encode_text, load, make_tokenizer
from eyeshine_export.roads.data import Store, check_seeds, fact_row, render_store, row_facts
from eyeshine_export.roads.dropout import LocalPatchDropout
from eyeshine_export.roads.evaluate import evaluate, held_out
from eyeshine_export.roads.train import Trainer, run

TINY = Shape(embed=16, width=32, layers=2, head_width=16, patch=16, text_width=16, text_layers=1, text_heads=2)


def quick(**changes):
    return Options(
        **({"steps": 6, "batch": 8, "texts": 8, "bf16": False, "rate": 3e-3, "ema": 0.5, "shards": 1} | changes)
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    render_store(folder, count=24, workers=1)
    return Store(folder)


def test_the_store_holds_what_the_seeds_say(store):
    assert list(store.ready()) == list(range(24))
    scene = roads.render(seed=5)
    assert np.array_equal(store.pixels[5], data.to_model_size(scene.image))
    assert row_facts(store.facts[5]) == scene.facts


def test_a_store_half_rendered_offers_only_what_is_there(tmp_path):
    render_store(tmp_path, count=4, workers=1)
    done = np.load(tmp_path / "done.npy")
    done[2:] = 0
    np.save(tmp_path / "done.npy", done)
    assert list(Store(tmp_path).ready()) == [0, 1]


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(OptionError, match="render"):
        Store(tmp_path)


@pytest.mark.parametrize(("first", "count"), [(roads.HELD_OUT_FROM, 1), (roads.HELD_OUT_FROM - 5, 6), (-1, 3), (0, 0)])
def test_held_out_seeds_are_refused(first, count, tmp_path):
    with pytest.raises(OptionError):
        check_seeds(first, count)
    with pytest.raises(OptionError):
        render_store(tmp_path, count=count, first=first)
    assert not list(tmp_path.iterdir())


def test_evaluation_refuses_training_seeds():
    with pytest.raises(OptionError):
        next(held_out(1, first=7))


def test_augmentation_keeps_the_scene(store):
    pixels, rows = store.batch(np.array([3, 3, 3, 3, 3, 3]), np.random.default_rng(0))
    assert len({p.tobytes() for p in pixels}) > 1
    assert all(np.array_equal(row, store.facts[3]) for row in rows)
    assert abs(float(pixels.mean()) - float(store.pixels[3].mean())) < 12


def test_tokenizer_ids():
    tokenizer = make_tokenizer(24)
    size = tokenizer.get_vocab_size()
    row = tokenizer.encode("A Red CAR, and a zebra")
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    assert (start, end) == (size - 2, size - 1)
    words = ["a", "red", "car", ",", "and", "a"]
    assert row.ids[:9] == [start, *(tokenizer.token_to_id(w) for w in words), 1, end]
    assert row.ids[9:] == [0] * 15
    assert max(tokenizer.get_vocab().values()) == end
    assert tokenizer.token_to_id(UNKNOWN) == 1


def test_no_caption_holds_an_unknown_word_or_is_cut(store):
    tokenizer = make_tokenizer(24)
    rng = np.random.default_rng(0)
    for row in store.facts:
        for caption in roads.captions(row_facts(row), rng, 40):
            ids = tokenizer.encode(caption.text).ids
            assert 1 not in ids, caption.text
            assert len(caption.text.replace(",", " ,").split()) + 2 <= 24


def test_an_unknown_token_written_out_is_the_unknown_id():
    assert make_tokenizer(24).encode(f"a {UNKNOWN} car").ids[2] == 1


def test_the_pool_holds_every_label_and_distinct_texts(store):
    pool = texts.pool(store.facts[:8], 20, np.random.default_rng(0))
    assert len({c.text for c in pool}) == len(pool)
    assert set(roads.LABELS) <= {fact for c in pool for fact, _ in c.claims}


def test_truth_agrees_with_the_facts_one_by_one(store):
    pool = texts.pool(store.facts[:8], 30, np.random.default_rng(1))
    table = texts.truth(store.facts[:8], pool)
    for b in range(8):
        facts = row_facts(store.facts[b])
        for t, caption in enumerate(pool):
            assert table[b, t] == caption.holds(facts)
    nothing = [t for t, c in enumerate(pool) if c.claims == ((texts.NOTHING, 1),)]
    assert nothing
    assert not table[:, nothing].any()
    assert 0.03 < table.mean() < 0.6


def test_fact_rows_round_trip():
    facts = roads.facts_of(["a red car", "a red car", "a cone"], "fog", "night")
    assert facts["car"] == 2
    assert row_facts(fact_row(facts)) == facts


def test_short_text_encoding_equals_the_models_own(store):
    model = Trainer(TINY, quick(), store).model.eval()
    ids = torch.tensor([r.ids for r in make_tokenizer(24).encode_batch(["a car", "a red bus and a dog at night"])])
    with torch.no_grad():
        assert torch.allclose(encode_text(model, ids), model.encode_text(ids, normalize=True), atol=1e-6)


def test_a_few_steps_reduce_the_loss(store):
    trainer = Trainer(TINY, quick(steps=40, patch_dropout=0.0), store)
    losses = [trainer.step() for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:4])


def test_patches_are_dropped_until_near_the_end(store):
    trainer = Trainer(TINY, quick(steps=4, full_from=0.5), store)
    seen = []
    for _ in range(4):
        trainer.step()
        seen.append(trainer.dropout.prob)
    assert seen == [0.5, 0.5, 0.0, 0.0]


def test_with_forget_1_the_class_token_reads_the_last_block_alone(store):
    """Then nothing but the last block's patches can tell two pictures apart: the class token before it is shared."""
    model = Trainer(TINY, quick(forget=1.0, local=0.0, patch_dropout=0.0), store).model
    caught = []
    block = model.visual.transformer.resblocks[-1]
    block.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    images = torch.randn(4, 3, 112, 112)
    model.train()(images)
    model.eval()(images)
    assert torch.equal(caught[0][1:, 0], caught[0][:-1, 0])
    assert not torch.allclose(caught[1][1:, 0], caught[1][:-1, 0])
    patches = [np.sort(tokens[:, 1:].detach().sum(-1).numpy(), axis=1) for tokens in caught]  # in any order
    assert np.allclose(patches[0], patches[1], atol=1e-4)


def test_local_patches_see_their_neighbours_alone():
    dropout = LocalPatchDropout(14, prob=0.5, local=1.0).train()
    tokens = torch.arange(197.0)[None, :, None].repeat(2, 1, 3)
    out = dropout(tokens)
    assert out.shape == (2, 99, 3)
    kept = (out[0, 1:, 0] - 1).long().tolist()
    assert len(set(kept)) == 98
    allowed = dropout.mask[0] == 0
    assert allowed[0].all()
    assert not allowed[1:, 0].any()
    for i, p in enumerate(kept):
        for j, q in enumerate(kept):
            near = abs(p // 14 - q // 14) <= 2 and abs(p % 14 - q % 14) <= 2
            assert bool(allowed[1 + i, 1 + j]) == near


def test_nothing_is_withheld_outside_training():
    dropout = LocalPatchDropout(14, prob=0.5, local=1.0).eval()
    tokens = torch.rand(2, 197, 3)
    assert dropout(tokens) is tokens
    assert dropout.mask is None


@pytest.mark.parametrize(("local", "changed"), [(1.0, 9), (0.0, 49)])
def test_a_change_in_a_corner_stays_there_while_attention_is_local(store, local, changed):
    """Two blocks of 7 x 7 patches: before the second, patches within two of the corner may differ, or else all."""
    model = Trainer(TINY, quick(local=local, forget=0.0, patch_dropout=0.0), store).model.train()
    seen = []
    model.visual.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    one = torch.rand(1, 3, 112, 112)
    other = one.clone()
    other[:, :, :16, :16] += 1
    for images in (one, other):
        torch.manual_seed(0)
        model(images)
    moved = (seen[0] - seen[1]).abs().amax(-1)[0, 1:] > 1e-7
    assert int(moved.sum()) == changed


def test_a_run_begins_with_sparse_scenes(store):
    sparse = store.ready(most=4)
    for k in range(24):
        assert (k in sparse) == (len(roads.render(seed=k).objects) <= 4)
    trainer = Trainer(TINY, quick(steps=4, sparse_until=0.5), store)
    seen = []
    batch = store.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "batch", lambda numbers, rng: seen.append(set(numbers.tolist())) or batch(numbers, rng))
        for _ in range(4):
            trainer.step()
    assert all(numbers <= set(sparse.tolist()) for numbers in seen[:2])
    assert not (seen[2] | seen[3]) <= set(sparse.tolist())


def test_resume_goes_on_exactly(store, tmp_path):
    straight = Trainer(TINY, quick(), store)
    for _ in range(6):
        straight.step()
    first = Trainer(TINY, quick(), store)
    for _ in range(3):
        first.step()
    first.save(tmp_path)
    second = Trainer(TINY, quick(seed=9), store)
    second.resume(tmp_path)
    assert second.step_count == 3
    for _ in range(3):
        second.step()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
        assert torch.equal(straight.average[name], second.average[name]), name


def test_a_run_leaves_a_checkpoint_that_loads_and_scores(store, tmp_path):
    trainer = Trainer(TINY, quick(), store)
    run(trainer, tmp_path)
    model, tokenizer, configuration = load(tmp_path)
    assert trainer.step_count == 6
    assert configuration["text_cfg"]["vocab_size"] == tokenizer.get_vocab_size()
    assert configuration == json.loads((tmp_path / "config.json").read_text())
    for name, value in model.state_dict().items():
        assert torch.equal(value, trainer.average[name])
    found = evaluate(tmp_path, count=8)
    assert 0 < found["chance"] < 0.2
    assert all(0 <= found[f"{m}/{t}"] <= 1 for m in ("attention", "grad_eclip", "chefer") for t in ("self", "mean"))


def test_load_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(OptionError, match="train"):
        load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"steps": 1, "minutes": 1.0}, {"steps": 0}, {"steps": 1, "patch_dropout": 0.95}, {"steps": 1, "batch": 0}],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(OptionError):
        Options(**wrong)


@pytest.mark.parametrize("wrong", [{"width": 100}, {"patch": 9}, {"text_heads": 3}])
def test_wrong_shapes_are_refused(wrong):
    with pytest.raises(OptionError):
        Shape(**wrong)


def test_the_default_shape_is_small_enough(store):
    model = Trainer(Shape(), Options(steps=1), store).model
    assert sum(p.numel() for p in model.parameters()) * 4 <= 14e6
    assert Shape().width // Shape().head_width >= 6


def naive_auc(values, truth):
    pairs = [(a > b) + 0.5 * (a == b) for a in values[truth] for b in values[~truth]]
    return float(np.mean(pairs))


def test_auc_against_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.integers(0, 6, 40).astype(float)  # many ties
        truth = rng.random(40) < 0.3
        truth[:2] = True, False
        assert scores.roc_auc(values, truth) == pytest.approx(naive_auc(values, truth))
    assert np.isnan(scores.roc_auc(np.arange(3.0), np.ones(3, dtype=bool)))


def test_upsampling_against_torch():
    heat = np.random.default_rng(0).random((14, 14))
    want = torch.nn.functional.interpolate(torch.from_numpy(heat)[None, None], size=112, mode="bilinear")[0, 0]
    assert np.allclose(scores.upsample(heat, 112), want.numpy())


def test_pointing_hits_and_misses():
    heat = np.zeros((14, 14))
    heat[3, 9] = 1.0
    mask = np.zeros((112, 112), dtype=bool)
    mask[24:32, 72:80] = True
    assert scores.points_at(heat, mask)
    assert not scores.points_at(heat, ~mask)
    assert not scores.points_at(heat.T, mask)


def test_means_are_over_classes_not_cases():
    values, classes = np.array([1.0, 1, 1, 0]), np.array([0, 0, 0, 1])
    assert scores.mean_by_class(values, classes, 3) == 0.5
