"""A study by Ray Data: the same records as on one machine, in the same order."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.cli import main
from eyeshine.datasets import Roads
from eyeshine.errors import BundleError, OptionError
from eyeshine.methods import METHODS
from eyeshine.study import Study, get_preset, read_records, run
from eyeshine.study.ray_data import _Recipe, _Worker, check_ray, run_on_ray


@pytest.fixture
def study():
    return Study(
        dataset=Roads(5, size=64),
        methods={name: METHODS[name] for name in ("grad_eclip", "attention", "occlusion")},
        preset=get_preset(("concept_drop", "confidence_increase")),
    )


def contents(folder):
    """Records without what a clock says."""
    return [{key: value for key, value in record.items() if not key.endswith("_ms")} for record in read_records(folder)]


def test_without_ray_the_extra_is_named(monkeypatch, tiny, study, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(OptionError, match=r"pip install 'eyeshine\[ray\]'"):
        check_ray()
    with pytest.raises(OptionError, match=r"eyeshine\[ray\]"):
        run_on_ray(study, tiny, tmp_path)
    assert not (tmp_path / "records.jsonl").exists()


def test_a_worker_makes_the_records_of_a_local_run(tiny, study, tmp_path):
    """What runs in a worker, in this process: by numbers of samples, from a recipe."""
    run(study, tiny, tmp_path)
    made = pickle.loads(pickle.dumps((study, _Recipe.of(tiny, 1))))
    worker = _Worker(*made, strict=True)
    todo = json.dumps(study.tasks)
    batch = {"number": np.array([3, 0, 1]), "todo": np.array([todo] * 3, dtype=object)}
    found = [json.loads(text) for text in worker(batch)["records"]]
    local = contents(tmp_path)
    for number, records in zip((3, 0, 1), found, strict=True):
        plain = [{key: value for key, value in record.items() if not key.endswith("_ms")} for record in records]
        assert plain == local[3 * number : 3 * number + 3]


def test_a_worker_with_another_bundle_is_refused(tiny):
    recipe = _Recipe.of(tiny, 1)
    with pytest.raises(BundleError, match=r"another bundle"):
        _Recipe("runtime/eyeshine/models/roads", recipe.hash, recipe.options, recipe.preprocess, ()).make()


def test_numbers_of_workers_are_checked(tiny, study, tmp_path):
    pytest.importorskip("ray")
    for given in ({"workers": 0}, {"threads": 0}):
        with pytest.raises(OptionError, match=next(iter(given))):
            run_on_ray(study, tiny, tmp_path, **given)


@pytest.mark.slow  # starts a cluster on this machine: 10 to 20 s
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_records_of_a_cluster_are_those_of_one_machine(tiny, study, tiny_bundle, tmp_path):
    ray = pytest.importorskip("ray")
    explainer = Explainer.load(tiny_bundle, threads=1)
    run(study, explainer, tmp_path / "local")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert run_on_ray(study, explainer, tmp_path / "ray", workers=2) == 15
        assert contents(tmp_path / "ray") == contents(tmp_path / "local")
        assert run_on_ray(study, explainer, tmp_path / "ray", resume=True) == 0
        # What is there is not done again, and more samples are added.
        more = Study(dataset=Roads(7, size=64), methods=study.methods, preset=study.preset)
        assert run_on_ray(more, explainer, tmp_path / "ray", resume=True) == 6
        assert len(contents(tmp_path / "ray")) == 21
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_runs_on_a_cluster_of_its_own(tiny_bundle, tmp_path, capsys):
    pytest.importorskip("ray")
    asked = ("evaluate", "--dataset", "roads", "--scenes", "2", "-m", "attention", "--metric", "concept_drop")
    with pytest.raises(SystemExit) as ended:
        main([*asked, "-b", str(tiny_bundle), "--out", str(tmp_path / "a"), "--ray", "local"])
    assert not ended.value.code, capsys.readouterr().err
    assert len(contents(tmp_path / "a")) == 2
    assert "attention" in (tmp_path / "a" / "report.md").read_text("utf-8")
