"""Studies of the text side: confidence of captions, and retrieval against a loop over all pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eyeshine import Explainer
from eyeshine.cli import main
from eyeshine.datasets import Captions, Roads
from eyeshine.errors import OptionError, SignalError
from eyeshine.metrics.retrieval import Recall
from eyeshine.study import PRESETS, Study, read_records, run, tabulate, write_report
from eyeshine.study.parquet import write_parquet
from eyeshine.study.records import SCORES
from eyeshine.study.retrieval import score_retrieval
from eyeshine.text_side import TEXT_METHODS

ROWS = [
    ("A red car, and a dog!", 0), ("the small tree", 1), ("blue sky and road", 2), ("a cat", 3), ("the small tree", 3),
    ("left of the house", 4), ("big green tree right", 4),
]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    for k in range(5):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    path = tmp_path / "captions.tsv"
    path.write_text("".join(f"{caption}\t{k}.png\n" for caption, k in ROWS), "utf-8")
    return path


@pytest.fixture
def study(table):
    methods = {name: TEXT_METHODS[name] for name in ("grad_eclip", "attention")}
    return Study(dataset=Captions(table), methods=methods, preset=PRESETS["confidence-text"])


def slow_vector(explainer, ids):
    """The unit vector of one text's ids, encoded alone."""
    vector = explainer._session("text").run({"tokens": np.array([ids], np.int64)}, ["text_embedding"])
    return vector.outputs["text_embedding"][0].astype(float)


def test_confidence_of_captions_is_a_loop(tiny, study, tmp_path):
    run(study, tiny, tmp_path / "out")
    tokenizer = tiny.texts.tokenizer
    records = list(read_records(tmp_path / "out"))
    assert len(records) == 2 * len(ROWS)
    for record in records:
        (sample,) = [s for s in study.dataset.samples() if s.key == record["key"]]
        photo = sample.open().image
        image = tiny.encode_images(photo)[0].astype(float)
        (item,) = record["items"]
        found = tiny.explain(photo, [item["text"]], method=record["method"], side="text")
        ids, values = list(found.ids[0]), found.of().tolist()
        middle = float(np.percentile(values, 50))
        kept = [value > middle for value in values]
        blanked = [token if keep else 0 for token, keep in zip(ids, kept, strict=True)]
        released = [slow_vector(tiny, row) @ image for row in (ids, blanked)]
        framed = [
            slow_vector(tiny, [tokenizer.start, *row, tokenizer.end]) @ image
            for row in (ids, [t for t, k in zip(ids, kept, strict=True) if k])
        ]
        for mode, (before, after) in (("m2ib", released), ("keep-eot", framed)):
            assert item["values"][f"drop {mode}"] == pytest.approx(max(0, before - after), abs=1e-5)
            assert item["values"][f"increase {mode}"] == (after > before)


def test_records_hold_the_words_of_the_prepared_caption(tiny, study, tmp_path):
    run(study, tiny, tmp_path / "out")
    words = [[word for word, _ in record["items"][0]["words"]] for record in read_records(tmp_path / "out")]
    assert words[0] == ["a", "red", "car,", "and", "a", "dog"]


def test_relevance_changes_with_the_image(tiny, study, table, tmp_path):
    """The same caption of five images."""
    table.write_text("".join(f"big green tree right and a dog\t{k}.png\n" for k in range(5)), "utf-8")
    run(replace(study, dataset=Captions(table)), tiny, tmp_path / "out")
    values: dict = {"grad_eclip": set(), "attention": set()}
    for record in read_records(tmp_path / "out"):
        values[record["method"]].add(tuple(value for _, value in record["items"][0]["words"]))
    assert len(values["grad_eclip"]) == 5
    assert len(values["attention"]) == 1  # of the text alone


def slow_retrieval(explainer, study, records, insert, points):
    """Recall at each point by loops over all pairs, ties by expectation; records of one method."""
    photos = {sample.key: sample.open().image for sample in study.dataset.samples()}
    keys = [record["key"] for record in records]
    images = [explainer.encode_images(photos[key])[0].astype(float) for key in keys]
    tokenizer = explainer.texts.tokenizer
    curves = {"images": [], "texts": []}
    for k in range(points + 1):
        vectors, known = [], {}
        for record in records:
            words = record["items"][0]["words"]
            top = sorted(range(len(words)), key=lambda w: -words[w][1])[: round(k / points * len(words))]
            text = " ".join(word for w, (word, _) in enumerate(words) if (w in top) == insert)
            if text not in known:
                ids = tokenizer.encode([text])[0]
                known[text] = slow_vector(explainer, ids[: list(ids).index(tokenizer.end) + 1])
            vectors.append(known[text])
        cosines = np.array([[v @ image for image in images] for v in vectors])  # [caption, image]
        for of, scores in (("images", cosines), ("texts", cosines.T)):
            found = []
            for own, row in enumerate(scores):
                best = [place for place, value in enumerate(row) if value > row.max() - 1e-7]
                found.append((own in best) / len(best))
            curves[of].append(sum(found) / len(found))
    return curves


def test_retrieval_is_a_loop_over_all_pairs(tiny, study, tmp_path):
    names = {f"{of}{insert}": Recall(of, insert, points=4) for of in ("images", "texts") for insert in (False, True)}
    preset = replace(PRESETS["retrieval"], metrics=names)
    # Equally relevant words come in an order of the seed, which the loop does not know: attention leaves none equal.
    study = replace(study, preset=preset, methods={"attention": TEXT_METHODS["attention"]})
    run(study, tiny, tmp_path / "out")
    records = list(read_records(tmp_path / "out"))
    scored = list(score_retrieval(study, tiny, tmp_path / "out"))
    assert all(len({v for _, v in r["items"][0]["words"]}) == len(r["items"][0]["words"]) for r in records)
    for name, metric in names.items():
        points = slow_retrieval(tiny, study, records, metric.insert, 4)[metric.of]
        items = [item for record in scored for item in record["items"] if name in item["values"]]
        assert np.allclose(np.mean([item["curves"][name] for item in items], axis=0), points, atol=1e-6)
        area = (sum(points) - (points[0] + points[-1]) / 2) / 4
        assert np.mean([item["values"][name] for item in items]) == pytest.approx(area, abs=1e-6)
        assert len(set(points)) > 1


def test_retrieval_has_a_report(tiny, study, tmp_path):
    study = replace(study, preset=PRESETS["retrieval"])
    run(study, tiny, tmp_path / "out")
    with pytest.raises(OptionError, match="explainer"):
        write_report(study, None, tmp_path / "out")
    text = write_report(study, tiny, tmp_path / "out").read_text("utf-8")
    assert "Our reconstruction" in text
    assert "| IR deletion ↓ | TR deletion ↓ | IR insertion ↑ | TR insertion ↑ |" in text
    assert len((tmp_path / "out" / SCORES).read_text("utf-8").splitlines()) == 2 * len(ROWS)
    assert "undefined" not in text
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        f"curves-{name}.png" for name in ("ir_deletion", "ir_insertion", "tr_deletion", "tr_insertion")
    ]


def test_the_table_of_values_has_those_of_retrieval(tiny, study, table, tmp_path):
    from pyarrow import parquet

    table.write_text(table.read_text("utf-8") + "a dog\tgone.png\n", "utf-8")
    study = replace(study, preset=PRESETS["retrieval"], dataset=Captions(table))
    run(study, tiny, tmp_path / "out")
    write_report(study, tiny, tmp_path / "out")
    rows = parquet.read_table(write_parquet(tmp_path / "out")).to_pylist()
    assert sum(row["error"] is not None for row in rows) == 2
    found = {(row["method"], row["metric"]): [] for row in rows if row["error"] is None}
    assert set(found) == {(method, name) for method in study.methods for name in study.preset.metrics}
    for row in rows:
        if row["error"] is None:
            found[row["method"], row["metric"]].append(row["value"])
    scored = tabulate(study.preset, score_retrieval(study, tiny, tmp_path / "out"))
    for method, cells in scored.cells.items():
        for column in study.preset.columns:
            assert np.mean(found[method, column.metric]) == pytest.approx(cells[column.title].value)


def test_a_study_of_which_every_sample_failed_has_a_report_that_says_so(tiny, study, table, tmp_path):
    table.write_text("a dog\tgone.png\n", "utf-8")
    for preset in ("retrieval", "confidence-text"):
        own = replace(study, preset=PRESETS[preset], dataset=Captions(table))
        run(own, tiny, tmp_path / preset)
        text = write_report(own, tiny, tmp_path / preset).read_text("utf-8")
        assert "grad_eclip: 1 sample(s) failed" in text
        assert "gone.png" in text
        assert "nan" not in text


def test_a_caption_that_cannot_be_explained_is_left_out_of_the_gallery(tiny, study, table, tmp_path):
    table.write_text(table.read_text("utf-8") + "(...)\t2.png\na dog\tgone.png\n", "utf-8")
    study = replace(study, preset=PRESETS["retrieval"], dataset=Captions(table))
    run(study, tiny, tmp_path / "out")
    failed = [record for record in read_records(tmp_path / "out") if "error" in record]
    assert len(failed) == 4
    scored = list(score_retrieval(study, tiny, tmp_path / "out"))
    assert len(scored) == 2 * len(ROWS)
    table_ = tabulate(study.preset, scored)
    assert table_.samples == {"grad_eclip": len(ROWS), "attention": len(ROWS)}


def test_what_cannot_be_run_is_said_at_once(tiny_bundle, study, tmp_path):
    with pytest.raises(OptionError, match="captions"):
        Study(dataset=Folderless(), methods=study.methods, preset=PRESETS["retrieval"])
    templated = Explainer.load(tiny_bundle, threads=1, templates=["a photo of {}"])
    with pytest.raises(OptionError, match="--template"):
        run(study, templated, tmp_path / "out")
    many = replace(study, methods={"deep": replace(TEXT_METHODS["grad_eclip"], layers=30)})
    with pytest.raises(SignalError):
        run(many, Explainer.load(tiny_bundle, threads=1), tmp_path / "out")


class Folderless(Roads):
    """A data set without captions."""

    gives = frozenset({"mask"})


def test_the_command_line_takes_methods_of_the_text_side(tiny_bundle, table, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([
            "evaluate", "--dataset", "captions", "--data", str(table), "-b", str(tiny_bundle), "--preset", "retrieval",
            "--method", "grad_eclip", "--method", "mmel", "--out", str(tmp_path / "out"), "--threads", "1",
        ])  # fmt: skip
    assert not exit_.value.code
    assert "| mmel |" in capsys.readouterr().out
