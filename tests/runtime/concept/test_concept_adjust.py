"""Dynamic adjustment, its guard, the head grid and the sweep."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine import Explainer, roads
from eyeshine.cli import main
from eyeshine.concept import ConceptOptions
from eyeshine.concept.adjust import AdjustOptions, adjust, adjusted_map
from eyeshine.concept.pictures import head_grid
from eyeshine.errors import OptionError
from eyeshine.methods import ConceptAttribution
from eyeshine.metrics import evaluate

TEXTS = ["a car", "a dog"]
RANDOM = np.random.default_rng(0)


def slow(positive, negative, drop, suppression, low=2.0, high=5.0):
    """Readings A7: H' = H+ (1 + clip(CD, 0, 1) H+) - clip((NS_hi - NS) / (NS_hi - NS_lo), 0, 1) H-, ReLU, min-max."""
    rows, columns = positive.shape
    values = np.zeros((rows, columns))
    for y, x in np.ndindex(rows, columns):
        h = float(positive[y, x])
        taken = min(max((high - suppression) / (high - low), 0), 1) * float(negative[y, x])
        values[y, x] = max(h * (1 + min(max(drop, 0), 1) * h) - taken, 0)
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread else np.zeros_like(values)


@pytest.mark.parametrize("drop", [-0.4, 0.0, 0.3, 1.7])
@pytest.mark.parametrize("suppression", [-10.3, 2.0, 3.1, 5.6])
def test_the_formula_by_a_slow_loop(drop, suppression):
    positive, negative = RANDOM.random((2, 4, 5), dtype=np.float32)
    got = adjusted_map(positive, negative, drop, suppression, AdjustOptions())
    np.testing.assert_allclose(got, slow(positive, negative, drop, suppression), atol=1e-5)


def test_a_good_map_keeps_its_order_and_a_bad_one_loses_what_it_shares():
    positive, negative = RANDOM.random((2, 4, 5), dtype=np.float32)
    good = adjusted_map(positive, negative, 0.6, 6.0, AdjustOptions())
    assert (np.argsort(good.ravel()) == np.argsort(positive.ravel())).all()
    assert not adjusted_map(positive, 3 * positive, 0.0, 0.0, AdjustOptions()).any()


@pytest.mark.parametrize("wrong", [{"low": 5.0}, {"high": float("nan")}, {"low": True}])
def test_bounds_check_themselves(wrong):
    with pytest.raises(OptionError, match="bounds"):
        AdjustOptions(**wrong)


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def test_metrics_of_an_adjusted_map_are_refused(explainer, photo):
    plain = explainer.explain(photo, TEXTS, method="concept_attribution")
    result = adjust(explainer, photo, TEXTS, "a cat")
    assert result.adjusted
    assert not plain.adjusted
    assert result.texts == plain.texts
    rows = result.record()["adjustment"]
    assert [row["text"] for row in rows] == TEXTS
    with pytest.raises(OptionError, match="adjusted by metrics"):
        evaluate(explainer, result)
    # The scores that are shown are those of the map before.
    before = evaluate(explainer, plain, metrics=["concept_drop"])
    assert rows[0]["concept_drop"] == pytest.approx(before.score("concept_drop", 0, 0).value, abs=1e-5)


def test_negative_texts_fit_the_texts(explainer, photo):
    with pytest.raises(OptionError, match="do not fit"):
        adjust(explainer, photo, TEXTS, ["a cat"] * 3)


def test_the_head_grid_shows_what_was_chosen(explainer, photo):
    options = ConceptOptions(strategy="both", blocks=3, top=2)
    result = explainer.explain(photo, TEXTS, method=ConceptAttribution(options))
    pictures = [np.asarray(head_grid(result.details["heads"], 0, p, texts=result.texts)) for p in range(2)]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    every = explainer.explain(photo, TEXTS, method=ConceptAttribution(ConceptOptions(strategy="layers", blocks=3)))
    assert head_grid(every.details["heads"]).size[1] > 0


def test_the_sweep_draws_a_sheet_for_each_setting(tiny_bundle, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(roads.render(seed=1_000_000_004, size=64).image).save(tmp_path / "photo.png")
    arguments = ["sweep", str(tmp_path / "photo.png"), "-t", "a car", "-b", str(tiny_bundle), "-o", str(tmp_path)]
    arguments += ["--alpha", "0,.5,1", "--background", "0,.5", "--strategy", "heads", "--negative", "a dog"]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert not exit_.value.code
    names = ["sweep-alpha.png", "sweep-strategy.png", "sweep-background.png", "sweep-adjusted.png"]
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.split()] == names
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 200
    for wrong in (["--alpha", "half"], ["--beta", "0"], ["--strategy", "best"]):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, *wrong])
        assert exit_.value.code == 2
