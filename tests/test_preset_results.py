"""The page of the presets: every method of one run, three seeds, and the reports as they were written."""

from __future__ import annotations

import pytest
from benchmarks import preset_results
from benchmarks.notes import NOTES

from eyeshine.methods import METHODS, by_passes
from eyeshine.study import PRESETS
from eyeshine.text_side import TEXT_METHODS


@pytest.mark.parametrize("name", PRESETS)
def test_a_study_has_all_methods_of_its_side_and_seeds_where_something_is_drawn(name):
    study = preset_results.study(name, 5)
    graph = {key for key, method in METHODS.items() if not by_passes(method)}
    assert study.methods.keys() == (TEXT_METHODS.keys() if study.preset.side == "text" else graph)
    assert len(study) == 5
    assert {seed for _, seed in study.tasks} <= set(preset_results.SEEDS)
    if name == preset_results.LONGEST:  # its fills are drawn
        assert len(study.tasks) == 3 * len(study.methods)


def test_reports_become_sections_without_pictures_and_notes_stay(tmp_path, monkeypatch):
    for name in ("pointing", "imagenet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").write_text(f"# {name}\n\n| a |\n\n![curves](curves.png)\n", "utf-8")
    text = preset_results.page(tmp_path, ["pointing", "imagenet"])
    assert text.index("## pointing") < text.index("| a |") < text.index("## imagenet")
    assert "curves.png" not in text
    assert text.startswith("# ")


def test_one_preset_runs_and_what_was_written_by_hand_is_kept(tmp_path):
    out = tmp_path / "page.md"
    out.write_text(f"STALE\n{NOTES}\n\nby hand\n", "utf-8")
    given = ["--preset", "degradation", "--scenes", "1", "--work", tmp_path / "work", "--out", out]
    preset_results.main(list(map(str, given)))
    text = out.read_text("utf-8")
    assert "STALE" not in text
    assert text.endswith("by hand\n")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "] | 1 |" in line]
    assert len(rows) == len([method for method in METHODS.values() if not by_passes(method)])
