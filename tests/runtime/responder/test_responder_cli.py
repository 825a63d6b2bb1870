"""``eyeshine explain --expand``."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from eyeshine import Explainer
from eyeshine.cli import main
from eyeshine.responder import HypernymTable, expand_text


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def _plain_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_what_was_added_is_said_and_explained(tiny_bundle, photo, capsys):
    assert run("explain", photo, "-b", tiny_bundle, "-t", "a vehicle", "--expand", 1, "--json") == 0
    out, err = capsys.readouterr()
    assert err.startswith("a vehicle: 1.00 a car; left out, never seen by the model: a bus, a truck")
    found = json.loads(out)
    assert found["texts"] == ["a vehicle"]
    explainer = Explainer.load(tiny_bundle, threads=1)
    expected = explainer.explain(photo, [expand_text(explainer, "a vehicle", HypernymTable(), weight=1).vector])
    assert found["similarities"][0] == pytest.approx(float(expected.similarities[0, 0]), abs=1e-5)


def test_a_share_outside_its_range_is_refused(tiny_bundle, photo, capsys):
    assert run("explain", photo, "-b", tiny_bundle, "-t", "a car", "--expand", 2) == 2
    assert "weight of the kinds is out of range" in capsys.readouterr().err
