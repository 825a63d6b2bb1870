"""Studies: each sample once per method and seed, through interruptions of every kind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from eyeshine.datasets import Roads, Sample
from eyeshine.errors import EngineError, ImageError, OptionError, OutputError, SignalError
from eyeshine.methods import METHODS, GradEclip
from eyeshine.metrics import Deletion, Steps
from eyeshine.study import PRESETS, Column, Preset, drop_failed, files, get_preset, read_records, run
from eyeshine.study.parquet import write_parquet
from eyeshine.study.records import HEADER, RECORDS, Records
from eyeshine.study.sample import examine_maps

CURVES = Preset(
    "curves", "label", {"deletion": Deletion("prob", Steps(points=4))}, (Column("deletion", "deletion"),)
)  # fmt: skip


def contents(folder):
    """Records without what a clock says."""
    return [{key: value for key, value in record.items() if not key.endswith("_ms")} for record in read_records(folder)]


def test_every_sample_once_per_method_and_seed(tiny, study_of, tmp_path):
    study = replace(study_of(), preset=CURVES, seeds=(0, 3), dataset=Roads(3, size=64))
    assert run(study, tiny, tmp_path / "a") == 12
    found = contents(tmp_path / "a")
    tasks = [(record["key"], record["method"], record["seed"]) for record in found]
    keys = [sample.key for sample in study.dataset.samples()]
    assert sorted(tasks) == sorted((key, name, seed) for key in keys for name in study.methods for seed in (0, 3))
    assert all(len(record["items"]) == 1 for record in found)


def test_values_are_those_of_one_call(tiny, study_of, tmp_path):
    """Methods and texts share batches; alone they score the same."""
    study = study_of("rise", "concept_drop", "negative_suppression", "pixel_iou", count=2)
    study = replace(study, preset=replace(study.preset, metrics={**study.preset.metrics, **CURVES.metrics}))
    study = replace(study, dataset=replace(study.dataset, texts="labels"))
    run(study, tiny, tmp_path)
    for record in read_records(tmp_path):
        (sample,) = [s for s in study.dataset.samples() if s.key == record["key"]]
        content = sample.open()
        expected = tiny.evaluate(
            content.image, content.texts, metrics=study.preset.metrics, method=record["method"],
            labels=study.dataset.labels, negative=list(content.negatives), masks=list(content.masks),
        )  # fmt: skip
        assert [item["text"] for item in record["items"]] == list(content.texts)
        for p, item in enumerate(record["items"]):
            for name in study.preset.metrics:
                score = expected.score(name, 0, p)
                assert item["values"][name] == pytest.approx(score.value, abs=1e-6)
                assert np.allclose(item["curves"].get(name, []), [y for _, y in score.curve], atol=2e-6)
                assert item["parts"].get(name, {}) == dict(score.parts)


def test_the_predicted_label_is_explained_and_the_true_one_scored(tiny, study_of, tmp_path):
    study = study_of("imagenet", count=6, methods=("grad_eclip",))
    run(study, tiny, tmp_path)
    wrong = 0
    for record in read_records(tmp_path):
        (sample,) = [s for s in study.dataset.samples() if s.key == record["key"]]
        content = sample.open()
        truth, predicted = record["items"]
        cosines = tiny.encode_texts(study.dataset.labels) @ tiny.encode_images(content.image)[0]
        assert predicted["text"] == study.dataset.labels[int(cosines.argmax())]
        assert truth["text"] == truth["scored"] == predicted["scored"] == content.texts[0]
        wrong += predicted["text"] != truth["text"]
        if predicted["text"] == truth["text"]:
            assert predicted["values"] == truth["values"]
        # The scored label is the true one: both curves begin at the same whole image.
        for name, curve in predicted["curves"].items():
            whole = -1 if name.startswith("insertion") else 0
            assert curve[whole] == truth["curves"][name][whole]
    assert wrong


def test_a_right_prediction_has_the_scores_of_its_own_text(tiny, study_of, monkeypatch):
    """Of an image with several explained texts the predicted label need not be the first."""
    study = replace(study_of("imagenet", methods=("grad_eclip",)), dataset=Roads(4, texts="labels", size=64))
    labels, differing = study.dataset.labels, 0
    vectors = tiny.encode_texts(labels)
    told = [label for k, label in enumerate(labels) if np.argmax(vectors @ vectors[k]) == k]
    for sample in study.dataset.samples():
        content = sample.open()
        for label in set(content.texts[1:]).intersection(told):
            # The model is made to be right: the image's embedding is its label's.
            embedding = tiny.encode_texts([label])
            monkeypatch.setattr(tiny, "encode_images", lambda image, embedding=embedding: embedding)
            moved = replace(content, label=labels.index(label))
            of_moved = Sample(sample.key, lambda moved=moved: moved)
            (found,) = examine_maps(study, tiny, of_moved, [("grad_eclip", 0)], strict=True)
            *truth, predicted = found["items"]
            (own,) = [item for item in truth if item["text"] == label]
            assert predicted == {**own, "role": "predicted"}
            differing += predicted["curves"] != truth[0]["curves"]
    assert differing


def test_an_image_of_which_every_class_is_true_has_no_negative_text(tiny, study_of, tmp_path, monkeypatch):
    study = study_of("negative_suppression", count=1)
    opened = Roads._open
    monkeypatch.setattr(Roads, "_open", lambda self, seed: replace(opened(self, seed), negatives=None))
    run(study, tiny, tmp_path)
    assert all("every class is in it" in record["error"] for record in read_records(tmp_path))


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_study_that_was_interrupted_goes_on(tiny, study_of, tmp_path, after):
    study = study_of("confidence_drop")

    def stop(number):
        if number == after:
            raise Stop

    with pytest.raises(Stop):
        run(study, tiny, tmp_path / "cut", after=stop)
    assert len(contents(tmp_path / "cut")) == 2 * after
    assert run(study, tiny, tmp_path / "cut", resume=True) == 2 * (4 - after)
    run(study, tiny, tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert run(study, tiny, tmp_path / "cut", resume=True) == 0


@pytest.mark.parametrize("lost", [1, 3, 40, 400, "half"])
def test_a_line_that_was_cut_off_is_dropped_and_done_anew(tiny, study_of, tmp_path, lost):
    study = study_of("confidence_drop")
    run(study, tiny, tmp_path / "whole")
    run(study, tiny, tmp_path / "cut")
    path = tmp_path / "cut" / RECORDS
    data = path.read_bytes()
    path.write_bytes(data[: -(len(data) // 2 if lost == "half" else lost)])
    left = len(contents(tmp_path / "cut"))
    assert left < 8
    assert run(study, tiny, tmp_path / "cut", resume=True) == 8 - left
    order = lambda record: (record["key"], record["method"])
    assert sorted(contents(tmp_path / "cut"), key=order) == sorted(contents(tmp_path / "whole"), key=order)


def test_a_block_that_was_never_written_is_dropped(tiny, study_of, tmp_path):
    """What a file system may leave after a power failure: zeros, or a line that ends and is no JSON."""
    study = study_of("confidence_drop", count=1)
    run(study, tiny, tmp_path)
    whole = (tmp_path / RECORDS).read_bytes()
    for rest in (b"\0" * 5000, b'{"key": "1\n', b"\0" * 200_000):
        (tmp_path / RECORDS).write_bytes(whole + rest)
        assert run(study, tiny, tmp_path, resume=True) == 0
        assert (tmp_path / RECORDS).read_bytes() == whole


_KILLED = """
import os, signal, sys
from pathlib import Path
from eyeshine import Explainer
from eyeshine.datasets import Roads
from eyeshine.methods import METHODS
from eyeshine.study import PRESETS, Study, run
methods = {name: METHODS[name] for name in ("grad_eclip", "attention")}
study = Study(dataset=Roads(4, texts="captions", size=64), methods=methods, preset=PRESETS["confidence"])
def after(done):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
run(study, Explainer.load(sys.argv[1], threads=1), Path(sys.argv[2]), after=after)
"""


def test_a_killed_process_loses_no_record_and_a_second_one_counts_none_twice(tiny, study_of, tmp_path):
    call = [sys.executable, "-W", "ignore", "-c", _KILLED, tiny.bundle.folder, tmp_path]
    assert subprocess.run(call, check=False, capture_output=True).returncode == -signal.SIGKILL
    before = contents(tmp_path)
    assert len(before) == 6
    assert run(study_of("confidence"), tiny, tmp_path, resume=True) == 2
    found = contents(tmp_path)
    assert found[:6] == before
    assert len({(record["key"], record["method"]) for record in found}) == len(found) == 8


def test_every_record_is_in_the_file_before_the_next_sample_is_begun(tiny, study_of, tmp_path):
    """Whatever is buffered."""
    sizes = []
    run(study_of("confidence_drop"), tiny, tmp_path, after=lambda n: sizes.append(len(contents(tmp_path))))
    assert sizes == [2, 4, 6, 8]


def test_more_samples_can_be_added_and_other_studies_are_refused(tiny, study_of, tmp_path):
    study = study_of("confidence_drop", count=2)
    run(study, tiny, tmp_path)
    with pytest.raises(OptionError, match="already"):
        run(study, tiny, tmp_path)
    more = study_of("confidence_drop", count=4, limit=3)
    assert run(more, tiny, tmp_path, resume=True) == 2
    assert len({record["key"] for record in contents(tmp_path)}) == 3
    others = {
        "preset": study_of("concept_drop"),
        "seeds": study_of("confidence_drop", seeds=(1,)),
        "methods": study_of("confidence_drop", methods=("grad_eclip",)),
        "dataset": replace(study, dataset=replace(study.dataset, variant="cluttered")),
    }
    for named, other in others.items():
        with pytest.raises(OptionError, match=f"another one; got .*{named}"):
            run(other, tiny, tmp_path, resume=True)
    other = replace(
        study, preset=replace(study.preset, metrics={"confidence_drop": PRESETS["confidence"].metrics["increase"]})
    )
    with pytest.raises(OptionError, match="metrics"):
        run(other, tiny, tmp_path, resume=True)
    (tmp_path / HEADER).unlink()
    with pytest.raises(OptionError, match="without a header"):
        run(study, tiny, tmp_path, resume=True)


def test_a_record_that_is_there_twice_or_damaged_is_refused(tiny, study_of, tmp_path):
    study = study_of("confidence_drop", count=2)
    run(study, tiny, tmp_path)
    path = tmp_path / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[0]]))
    with pytest.raises(OptionError, match="twice"):
        run(study, tiny, tmp_path, resume=True)
    path.write_bytes(b"".join([lines[0], lines[1][:50] + b"\n", *lines[2:]]))
    with pytest.raises(OptionError, match="line 2"):
        run(study, tiny, tmp_path, resume=True)


def test_two_processes_do_not_write_one_study(tmp_path):
    with Records(tmp_path, {"a": 1}, {}, resume=False), pytest.raises(OutputError, match="another process"):
        Records(tmp_path, {"a": 1}, {}, resume=True)


@dataclass(frozen=True)
class Broken(Roads):
    """Every second image cannot be read."""

    def samples(self, start=0):
        for number, sample in enumerate(super().samples(start)):
            yield sample if number % 2 else Sample(sample.key, self._broken)

    @staticmethod
    def _broken():
        raise ImageError("truncated", got="half a file")


@dataclass(frozen=True)
class Failing(GradEclip):
    name: ClassVar[str] = "failing"

    def maps(self, signals, prompts):
        raise EngineError("it failed", got="this method alone")


def test_a_sample_that_fails_is_recorded_and_not_done_again(tiny, study_of, tmp_path):
    study = replace(study_of("confidence_drop"), dataset=Broken(4, size=64))
    run(study, tiny, tmp_path / "a")
    found = contents(tmp_path / "a")
    assert [("error" in record, record["method"]) for record in found] == [
        (broken, name) for broken in (True, False, True, False) for name in study.methods
    ]
    assert "half a file" in found[0]["error"]
    assert run(study, tiny, tmp_path / "a", resume=True) == 0
    with pytest.raises(ImageError):
        run(study, tiny, tmp_path / "b", strict=True)


def test_a_sample_is_not_taken_for_another_of_its_key(tiny, study_of, tmp_path, monkeypatch):
    study = study_of("confidence_drop", count=2)
    first, _ = study.dataset.samples()
    monkeypatch.setattr(Roads, "samples", lambda self, start=0: iter([first, first]))
    with pytest.raises(OptionError, match=f"one key.*{first.key}"):
        run(study, tiny, tmp_path)


def test_what_failed_is_done_anew_where_that_is_asked_for(tiny, study_of, tmp_path):
    study = study_of("confidence_drop")
    assert drop_failed(tmp_path / "none", study.identity(tiny)) == 0
    run(replace(study, dataset=Broken(4, size=64)), tiny, tmp_path)
    with pytest.raises(OptionError, match="another one"):
        drop_failed(tmp_path, study_of("concept_drop").identity(tiny))
    assert len(contents(tmp_path)) == 8
    assert drop_failed(tmp_path, study.identity(tiny)) == 4
    assert drop_failed(tmp_path, study.identity(tiny)) == 0
    assert not any("error" in record for record in contents(tmp_path))
    assert run(study, tiny, tmp_path, resume=True) == 4
    run(study, tiny, tmp_path / "whole")
    order = lambda record: (record["key"], record["method"])
    assert sorted(contents(tmp_path), key=order) == sorted(contents(tmp_path / "whole"), key=order)


def test_records_that_are_written_anew_are_not_appended_to_where_they_were(tmp_path, monkeypatch):
    """A second process that opened the file before it was replaced locks what is no longer there."""
    with Records(tmp_path, {}, {}, resume=False) as records:
        records.add([{"key": "1", "method": "a", "seed": 0, "error": "gone"}])
    lock = files._lock

    def late(descriptor, path):
        monkeypatch.undo()
        assert drop_failed(tmp_path, {}) == 1
        lock(descriptor, path)

    monkeypatch.setattr(files, "_lock", late)
    with pytest.raises(OutputError, match="another process"):
        Records(tmp_path, {}, {}, resume=True)


def test_an_identity_is_compared_with_what_another_process_began_meanwhile(tmp_path, monkeypatch):
    lock = files._lock

    def late(descriptor, path):
        monkeypatch.undo()
        with Records(tmp_path, {"a": 1}, {}, resume=False):
            pass
        lock(descriptor, path)

    monkeypatch.setattr(files, "_lock", late)
    with pytest.raises(OptionError, match="another one"):
        Records(tmp_path, {"a": 2}, {}, resume=False)


def test_a_full_disk_is_said_once(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    def write(error):
        with Records(tmp_path, {}, {}, resume=True):
            monkeypatch.setattr("eyeshine.study.records.os.fsync", full)
            if error is not None:
                raise error

    with pytest.raises(OutputError, match=r"No space left.*make room"):
        write(None)
    monkeypatch.undo()
    with pytest.raises(KeyError):  # what went wrong first
        write(KeyError())


def test_a_method_that_fails_takes_no_other_with_it(tiny, study_of, tmp_path):
    study = study_of("confidence_drop", count=2)
    study = replace(study, methods={"failing": Failing(), **study.methods})
    run(study, tiny, tmp_path / "a")
    assert [("error" in r, r["method"]) for r in contents(tmp_path / "a")] == [
        (name == "failing", name) for _ in range(2) for name in study.methods
    ]
    with pytest.raises(EngineError):
        run(study, tiny, tmp_path / "b", strict=True)


def test_only_what_is_drawn_is_run_for_every_seed(tiny, study_of):
    plain = study_of("confidence_drop", seeds=(0, 1, 2))
    assert plain.tasks == [("grad_eclip", 0), ("attention", 0)]
    assert len(replace(plain, preset=CURVES).tasks) == 6
    drawn = replace(plain, methods={"rise": METHODS["rise"], **plain.methods})
    assert [task for task in drawn.tasks if task[0] == "rise"] == [("rise", seed) for seed in (0, 1, 2)]
    assert drawn.method("rise", 2).seed == 2
    assert drawn.metrics(2) == plain.preset.metrics


def test_a_method_that_draws_nothing_is_explained_once_for_all_seeds(tiny, study_of, tmp_path, monkeypatch):
    calls = []
    original = tiny.explain
    monkeypatch.setattr(tiny, "explain", lambda *a, **k: calls.append(k["method"].name) or original(*a, **k))
    study = replace(study_of(count=1), preset=CURVES, seeds=(0, 1), dataset=Roads(1, size=64))
    run(study, tiny, tmp_path)
    assert calls == ["grad_eclip", "attention"]
    by_seed = {record["seed"]: record["items"][0]["curves"] for record in contents(tmp_path)}
    assert len(by_seed) == 2


def test_what_cannot_be_run_is_said_before_anything_is(tiny, study_of, tmp_path):
    @dataclass(frozen=True)
    class Deep(GradEclip):
        name: ClassVar[str] = "deep"
        blocks: ClassVar[int] = 30

    study = replace(study_of("confidence_drop"), methods={"deep": Deep()})
    with pytest.raises(SignalError):
        run(study, tiny, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(OptionError, match="does not have; got mask"):
        study_of("pixel_iou", texts="captions")
    with pytest.raises(OptionError, match="without a method"):
        study_of("confidence_drop", methods=())
    for wrong in ({"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"limit": 0}):
        with pytest.raises(OptionError):
            study_of("confidence_drop", **wrong)
    with pytest.raises(OptionError, match="stands by itself"):
        get_preset(("imagenet", "concept_drop"))
    with pytest.raises(OptionError, match="unknown metric"):
        get_preset(("magic",))


def test_parquet_has_a_row_per_value(tiny, study_of, tmp_path):
    from pyarrow import parquet

    study = replace(study_of("confidence_drop"), preset=CURVES, dataset=Broken(4, size=64))
    run(study, tiny, tmp_path)
    rows = parquet.read_table(write_parquet(tmp_path)).to_pylist()
    assert len(rows) == 8
    found = {(r["key"], r["method"]): r for r in rows}
    for record in read_records(tmp_path):
        row = found[record["key"], record["method"]]
        assert row["error"] == record.get("error")
        if "error" not in record:
            assert row["value"] == record["items"][0]["values"]["deletion"]
            assert row["curve"] == record["items"][0]["curves"]["deletion"]
            assert row["metric"] == "deletion"


def test_headers_hold_no_paths_and_are_plain(tiny, study_of, tmp_path):
    study = study_of("confidence_drop", count=1)
    run(study, tiny, tmp_path)
    text = (tmp_path / HEADER).read_text("utf-8")
    assert json.loads(text)["identity"]["bundle"] == tiny.bundle.hash
    assert str(tiny.bundle.folder) not in text
