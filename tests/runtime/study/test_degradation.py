"""The cosine after each level of occlusion, against a loop over patches."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from eyeshine.study import read_records, run, write_report
from eyeshine.study.table import tabulate

LEVELS = (0.05, 0.1, 0.15, 0.2, 0.25)


def occluded(tiny, content, method):
    """Cosines with the hottest patches in the mean colour, 0 % first; patches of the tiny model are 8 pixels."""
    found = tiny.explain(content.image, content.texts, method=method)
    pixels, heat = tiny.preprocess.prepare(content.image).pixels, found.maps[0, 0]
    assert len(np.unique(heat)) == heat.size  # no ties, whose order would be random
    mean = np.array(tiny.bundle.manifest.model.mean, np.float32)
    vector, order = tiny.encode_texts(content.texts)[0], np.argsort(-heat.ravel())
    for share in (0.0, *LEVELS):
        frame = pixels.copy()
        for patch in order[: round(share * heat.size)]:
            row, column = divmod(int(patch), heat.shape[1])
            frame[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = mean[:, None, None]
        yield float(tiny.model().run("encode", {"pixels": frame[None]}, ["embedding"])["embedding"][0] @ vector)


def test_every_level_is_scored(tiny, study_of, tmp_path):
    study = study_of("degradation", count=3, methods=("attention",))
    run(study, tiny, tmp_path)
    text = write_report(study, tiny, tmp_path).read_text("utf-8")
    contents = [sample.open() for sample in islice(study.dataset.samples(), 3)]
    expected = np.mean([list(occluded(tiny, content, "attention")) for content in contents], axis=0)
    (curve,) = (curves["attention"] for curves in tabulate(study.preset, read_records(tmp_path)).curves.values())
    assert curve == pytest.approx(expected, abs=2e-6)
    assert "| method | 0% | 5% | 10% | 15% | 20% | 25% |" in text.splitlines()
    rows = [row for row in text.splitlines() if row.startswith("| attention |")]
    assert [float(cell) for cell in rows[-1].split("|")[2:-1]] == pytest.approx(expected, abs=6e-5)
    assert (tmp_path / "strip-1.png").is_file()


def test_other_curves_are_drawn_alone(tiny, study_of, tmp_path):
    study = study_of("insertion", count=1, methods=("attention",))
    run(study, tiny, tmp_path)
    assert "occluded, hottest first" not in write_report(study, None, tmp_path).read_text("utf-8")
    assert (tmp_path / "curves-insertion.png").is_file()
