"""Searches: the rounds on made-up scores, the winner against a slow loop, and what must not be tuned on."""

from __future__ import annotations

import json
import warnings
from itertools import islice

import numpy as np
import pytest

from eyeshine import roads
from eyeshine.cli import main
from eyeshine.datasets import Karpathy, Roads
from eyeshine.errors import OptionError, SignalError
from eyeshine.methods.configure import configure, read_settings
from eyeshine.study import PRESETS, get_preset, read_records
from eyeshine.study.tune import REPORTED_FROM, Rung, Tuning, check_unreported, halve, plan, tune

UNREPORTED = Roads(20, first=roads.HELD_OUT_FROM + 400_000, size=64)


def tuning_of(**given):
    asked = {
        "method": "concept_attribution", "grid": {"alpha": (0.0, 0.5, 1.0), "beta": (0.25, 4.0)},
        "preset": get_preset(("concept_drop",)), "dataset": UNREPORTED, "scenes": 4,
    }  # fmt: skip
    return Tuning(**{**asked, **given})


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code or 0


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_rounds_shrink_by_eta_and_end_with_a_pair():
    assert plan(7, 50, None) == [Rung(7, 50)]
    assert plan(27, 90, 3) == [Rung(27, 10), Rung(9, 30), Rung(3, 90)]
    assert plan(10, 100, 3) == [Rung(10, 12), Rung(4, 34), Rung(2, 100)]
    assert plan(2, 5, 4) == [Rung(2, 5)]
    for count in range(2, 60):
        for eta in range(2, 6):
            rungs = plan(count, 200, eta)
            assert rungs[0].candidates == count
            assert rungs[-1].samples == 200
            assert 2 <= rungs[-1].candidates <= max(eta, 2)
            samples = [rung.samples for rung in rungs]
            assert samples == sorted(samples)


@pytest.mark.parametrize("higher", [True, False])
def test_halving_keeps_the_best_of_each_round(higher):
    """The truth is known: noise falls with the samples, as a mean's does, and lies between neighbours at the end."""
    truth = {f"c{k}": k / 30 for k in range(30)}
    random, calls = np.random.default_rng(0), []

    def score(names, samples):
        calls.append((len(names), samples))
        return {name: truth[name] + random.normal() / samples for name in names}

    rungs = plan(30, 1000, 3)
    trials = halve(truth, rungs, score, higher=higher)
    assert calls == [(rung.candidates, rung.samples) for rung in rungs]
    for number, rung in enumerate(rungs):
        of_round = [trial for trial in trials if trial.rung == number]
        values = sorted((trial.value for trial in of_round), reverse=higher)
        kept = [trial for trial in of_round if trial.kept]
        count = rungs[number + 1].candidates if number + 1 < len(rungs) else 1
        assert sorted((trial.value for trial in kept), reverse=higher) == values[:count]
        assert {trial.samples for trial in of_round} == {rung.samples}
    (winner,) = (trial.name for trial in trials if trial.kept and trial.rung == len(rungs) - 1)
    assert winner == ("c29" if higher else "c0")


def test_a_candidate_without_a_value_ranks_last():
    trials = halve("abc", [Rung(3, 1), Rung(2, 2)], lambda names, _: {"a": None, "b": 1.0, "c": 2.0}, higher=True)
    assert [trial.name for trial in trials if trial.kept] == ["b", "c", "c"]
    first = halve("ab", [Rung(2, 1)], lambda names, _: {"a": 1.0, "b": 1.0}, higher=False)
    assert [trial.kept for trial in first] == [True, False]  # of equals the first


def test_the_winner_is_that_of_a_slow_loop(tiny, tmp_path):
    tuning = tuning_of(fixed={"signed": True})
    found = tune(tuning, tiny, tmp_path)
    means = {}
    for name, settings in tuning.candidates.items():
        method, values = configure("concept_attribution", {"signed": True, **settings}), []
        for sample in islice(UNREPORTED.samples(), 4):
            content = sample.open()
            scored = tiny.evaluate(content.image, content.texts, metrics="concept_drop", method=method)
            values.append(scored.score("concept_drop", 0, 0).value)
        means[name] = np.mean([value for value in values if value is not None])
    ranked = sorted(means, key=means.get, reverse=True)
    best = {**tuning.candidates[ranked[0]], "signed": True}
    assert {trial.name: trial.value for trial in found.trials} == pytest.approx(means, abs=1e-6)
    assert found.value == pytest.approx(means[ranked[0]], abs=1e-6)
    assert found.margin == pytest.approx(means[ranked[0]] - means[ranked[1]], abs=1e-6)
    assert found.margin_interval[0] <= found.margin <= found.margin_interval[1] + 1e-9
    assert means[found.second] == pytest.approx(means[ranked[1]], abs=1e-6)
    if found.margin > 1e-6:
        assert found.settings == best
    # What explain reads.
    assert read_settings(tmp_path / "settings.json") == found.settings
    configure("concept_attribution", read_settings(tmp_path / "settings.json"))
    record = json.loads((tmp_path / "tuned.json").read_text("utf-8"))
    assert record["dataset"]["first"] == UNREPORTED.first
    assert record["decisive"] == found.decisive
    assert len((tmp_path / "trials.jsonl").read_text("utf-8").splitlines()) == 6


def test_halving_runs_no_more_than_it_has_to_and_goes_on(tiny, tmp_path):
    tuning = tuning_of(eta=2, scenes=4)
    found = tune(tuning, tiny, tmp_path / "a")
    assert [(rung.candidates, rung.samples) for rung in plan(6, 4, 2)] == [(6, 1), (3, 2), (2, 4)]
    records = list(read_records(tmp_path / "a"))
    assert len(records) == 6 * 1 + 3 * 1 + 2 * 2  # a round adds to what the one before has
    last = [trial for trial in found.trials if trial.rung == 2]
    whole = {trial.name: trial.value for trial in tune(tuning_of(), tiny, tmp_path / "b").trials}
    assert {t.name: t.value for t in last} == pytest.approx({t.name: whole[t.name] for t in last}, abs=1e-6)
    before = (tmp_path / "a" / "records.jsonl").read_bytes()
    assert tune(tuning, tiny, tmp_path / "a", resume=True) == found
    assert (tmp_path / "a" / "records.jsonl").read_bytes() == before
    with pytest.raises(OptionError, match=r"a study already"):
        tune(tuning, tiny, tmp_path / "a")


def test_what_is_reported_is_not_tuned_on(tmp_path):
    with pytest.raises(OptionError, match=r"results of these scenes are reported.*1000500003"):
        tuning_of(dataset=Roads(10, first=REPORTED_FROM - 1), scenes=5)
    tuning_of(dataset=Roads(10, first=REPORTED_FROM - 5), scenes=5)
    with pytest.raises(OptionError, match=r"reported"):
        check_unreported(Roads(5), 5)  # what evaluate takes by default
    one = {"filename": "a.jpg", "filepath": "", "sentences": [{"raw": "a car"}]}
    split = {"images": [{**one, "split": name} for name in ("test", "val")]}
    (tmp_path / "k.json").write_text(json.dumps(split), "utf-8")
    with pytest.raises(OptionError, match=r"this split are reported.*test"):
        check_unreported(Karpathy(tmp_path / "k.json", tmp_path, "test"), 5)
    check_unreported(Karpathy(tmp_path / "k.json", tmp_path, "val"), 5)

    class Silent:
        name = "silent"

        def describe(self):
            return {}

    with pytest.raises(OptionError, match=r"does not say which split"):
        check_unreported(Silent(), 5)
    check_unreported(Silent(), 5, "val")
    with pytest.raises(OptionError, match=r"this split are reported"):
        check_unreported(Silent(), 5, "test")


def test_a_search_that_makes_no_sense_is_refused(tiny, tmp_path):
    for given, said in (
        ({"grid": {"alpha": (0.5,)}}, "one candidate"),
        ({"grid": {"alphabet": (1, 2)}}, "no such setting"),
        ({"grid": {"alpha": (0.5, 7.0)}}, "alpha"),
        ({"fixed": {"alpha": 0.5}}, "searched and fixed"),
        ({"preset": PRESETS["pointing"]}, "which column decides"),
        ({"preset": PRESETS["retrieval"]}, "maps of images"),
        ({"eta": 1}, "eta"),
        ({"scenes": 0}, "scenes"),
    ):
        with pytest.raises(OptionError, match=said):
            tuning_of(**given)
    assert tuning_of(preset=PRESETS["pointing"], column="energy").decides.metric == "energy"
    with pytest.raises(SignalError, match=r"4 block"):
        tune(tuning_of(method="mmel", grid={"alpha": (1, 2)}), tiny, tmp_path)


def test_the_command_writes_what_explain_reads(tiny_bundle, tmp_path, capsys):
    asked = (
        "tune",
        "-m",
        "concept_attribution",
        "--grid",
        "alpha=.2,.9",
        "--grid",
        "signed=True,False",
        "--threads",
        1,
    )
    shared = ("--metric", "concept_drop", "-b", tiny_bundle, "--scenes", 2, "--threads", 1)
    assert run(*asked, *shared, "--set", "beta=2", "--halving", "--eta", 2, "--out", tmp_path / "t") == 0
    said = capsys.readouterr().out
    assert "round 2, 2 samples" in said
    settings = read_settings(tmp_path / "t" / "settings.json")
    assert settings["beta"] == 2
    assert settings["alpha"] in (0.2, 0.9)
    assert isinstance(settings["signed"], bool)
    assert f"{settings['alpha']}" in said
    from PIL import Image

    Image.fromarray(roads.render(seed=0, size=64).image).save(tmp_path / "scene.png")
    explained = ("explain", tmp_path / "scene.png", "-t", "a car", "-m", "concept_attribution", "-b", tiny_bundle)
    assert run(*explained, "--settings", tmp_path / "t" / "settings.json", "--json") == 0
    first = ("--first", roads.HELD_OUT_FROM + 700_000)
    assert run(*asked, *shared, *first, "--out", tmp_path / "u") == 2
    assert "results of these scenes are reported" in capsys.readouterr().err
    assert run(*asked, *shared, "--eta", 3, "--out", tmp_path / "u") == 2
    assert run("tune", "-m", "mmel", "--grid", "alpha", "--out", tmp_path / "u") == 2
