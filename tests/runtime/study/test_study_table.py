"""Tables against slow loops over the records; charts, strips and the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eyeshine.datasets import Roads
from eyeshine.errors import OptionError
from eyeshine.metrics import METRICS, Deletion, Insertion, Steps
from eyeshine.study import PRESETS, Column, Preset, Study, read_records, run, tabulate, write_report
from eyeshine.study.charts import chart, degradation_strip
from eyeshine.study.table import DRAWS, bootstrap_weights

COLUMNS = (
    Column("mean", "hit", scale=100),
    Column("classes", "hit", classes=True),
    Column("ratio", "cut", parts=(("a", "b"), ("c", "d"))),
    Column("other", "hit", "predicted"),
)
PRESET = Preset("made", "labels", {"hit": METRICS["pointing_game"], "cut": METRICS["confidence_drop"]}, COLUMNS)


def made(samples=60, seeds=(0, 1), methods=("one", "two"), shift=0.3, random=0):
    """Records of random values; the second method is better by ``shift``."""
    rng = np.random.default_rng(random)
    for key in range(samples):
        for seed in seeds:
            base = rng.random(3)
            for number, method in enumerate(methods):
                items = []
                for k in range(1 + key % 3):
                    hit = float(base[k] + shift * number + 0.1 * rng.random())
                    parts = {name: float(rng.integers(1, 50)) for name in "abcd"}
                    items.append({
                        "role": "predicted" if k == 2 else "truth", "text": f"class {(key + k) % 4}", "scored": "x",
                        "values": {"hit": None if (key, k) == (7, 0) else hit, "cut": 0.0}, "parts": {"cut": parts},
                        "curves": {"cut": [hit, 0.0]}, "flags": {},
                    })  # fmt: skip
                times = {"explain_ms": 2.0 + number + key % 5, "encode_ms": 1.0 + key % 3}
                yield {"key": str(key), "method": method, "seed": seed, "items": items, **times}
    yield {"key": "broken", "method": "two", "seed": 0, "error": "ImageError: truncated"}


def slow(records, method, title, weight):
    """One value by loops; ``weight`` of each sample by its key."""
    pairs = {}
    for record in records:
        if record["method"] != method or "error" in record:
            continue
        w = weight(record["key"])
        for item in record["items"]:
            if item["role"] != ("predicted" if title == "other" else "truth"):
                continue
            if title == "ratio":
                terms = [(n, item["parts"]["cut"][n], item["parts"]["cut"][d]) for n, d in ("ab", "cd")]
            elif item["values"]["hit"] is None:
                terms = []
            else:
                terms = [(item["text"] if title == "classes" else "", item["values"]["hit"], 1)]
            for group, a, b in terms:
                top, bottom = pairs.get(group, (0, 0))
                pairs[group] = top + w * a, bottom + w * b
    ratios = [a / b for a, b in pairs.values() if b]
    return (100 if title == "mean" else 1) * sum(ratios) / len(ratios)


@pytest.mark.parametrize("title", [column.title for column in COLUMNS])
def test_values_spreads_and_draws_are_those_of_loops(title):
    records = list(made())
    table = tabulate(PRESET, records)
    for method in ("one", "two"):
        cell = table.cells[method][title]
        assert cell.value == pytest.approx(slow(records, method, title, lambda key: 1))
        seeds = [slow([r for r in records if r["seed"] == s], method, title, lambda key: 1) for s in (0, 1)]
        assert cell.std == pytest.approx(abs(seeds[0] - seeds[1]) / 2**0.5)
        for draw in (0, 17, DRAWS - 1):
            expected = slow(records, method, title, lambda key, draw=draw: bootstrap_weights(key)[1 + draw])
            assert cell.draws[draw] == pytest.approx(expected)
        low, high = cell.interval
        assert low < cell.value < high
        assert np.mean((cell.draws < low) | (cell.draws > high)) == pytest.approx(0.05, abs=0.005)
    assert table.samples == {"one": 60, "two": 60}
    assert table.failures == {"two": 1}
    assert table.failed["two"] == {"broken": "ImageError: truncated"}


def test_the_interval_of_a_mean_is_about_the_normal_one():
    records = list(made(samples=400, seeds=(0,), methods=("one",)))
    cell = tabulate(PRESET, records).cells["one"]["mean"]
    per_sample = [
        [100 * item["values"]["hit"] for item in r["items"] if item["role"] == "truth" and item["values"]["hit"]]
        for r in records
        if "items" in r
    ]
    count = sum(map(len, per_sample))
    residuals = [sum(v - cell.value for v in values) for values in per_sample]  # of a ratio of sums over samples
    half = 1.96 * (sum(x * x for x in residuals)) ** 0.5 / count
    low, high = cell.interval
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert cell.std is None


def test_undefined_values_are_counted_and_left_out():
    table = tabulate(PRESET, made(seeds=(0,)))
    assert table.cells["one"]["mean"].undefined == 1
    assert table.cells["one"]["ratio"].undefined == 0


def test_the_best_is_named_only_where_it_is_better_beyond_the_interval():
    assert tabulate(PRESET, made(shift=0.3)).best["mean"] == "two"
    assert "mean" not in tabulate(PRESET, made(shift=0.0)).best
    lower = replace(PRESET, metrics={**PRESET.metrics, "hit": METRICS["confidence_drop"]})
    assert tabulate(lower, made(shift=0.3)).best["mean"] == "one"
    assert tabulate(PRESET, made(methods=("one",))).best == {}


def test_differences_are_taken_on_the_same_draws():
    """Two methods a hair apart on every sample: their intervals overlap, that of their difference is narrow."""
    table = tabulate(PRESET, made(shift=0.03, samples=200))
    one, two = table.cells["one"]["mean"], table.cells["two"]["mean"]
    assert one.interval[1] > two.interval[0]
    assert table.best["mean"] == "two"


def test_costs_are_ratios_of_medians_and_curves_means():
    records = [record for record in made(seeds=(0,)) if "items" in record]
    table = tabulate(PRESET, records)
    explain = sorted(r["explain_ms"] for r in records if r["method"] == "two")
    encode = sorted(r["encode_ms"] for r in records if r["method"] == "two")
    median = lambda values: (values[len(values) // 2] + values[(len(values) - 1) // 2]) / 2
    assert table.cost["two"] == pytest.approx(median(explain) / median(encode))
    curves = [i["curves"]["cut"] for r in records if r["method"] == "one" for i in r["items"] if i["role"] == "truth"]
    assert np.allclose(table.curves["cut", "truth"]["one"], np.mean(curves, axis=0))


@pytest.fixture
def curves():
    steps = {"deletion": Deletion("cosine", Steps(points=4)), "insertion": Insertion("cosine", Steps(True, points=4))}
    return Preset("curves", "label", steps, tuple(Column(name, name) for name in steps), note="A note.")


def test_a_report_says_what_was_measured(tiny, tmp_path, curves):
    from eyeshine.methods import METHODS

    methods = {"Grad-ECLIP": METHODS["grad_eclip"], "attention": METHODS["attention"]}
    study = Study(dataset=Roads(3, size=64), methods=methods, preset=curves, seeds=(0, 1))
    run(study, tiny, tmp_path)
    path = write_report(study, tiny, tmp_path)
    text = path.read_text("utf-8")
    table = tabulate(curves, read_records(tmp_path))
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("| ")}
    assert [cell.strip() for cell in rows["method"]] == ["deletion ↓", "insertion ↑", "samples", "cost"]
    for name in methods:
        for said, title in zip(rows[name], ("deletion", "insertion"), strict=False):
            cell = table.cells[name][title]
            numbers = [float(part.strip("[],* ")) for part in said.replace("±", " ").split()]
            assert numbers == pytest.approx([cell.value, cell.std, *cell.interval], abs=6e-5)
            assert ("**" in said) == (table.best.get(title) == name)
        assert rows[name][2].strip() == "3"
    for part in ("A note.", "3 samples of dataset roads", "seeds 0, 1", "none is copied from a paper"):
        assert part in text
    pictures = ["curves-deletion.png", "curves-insertion.png", "strip-1.png", "strip-2.png"]
    assert sorted(p.name for p in tmp_path.glob("*.png")) == pictures
    assert all(f"]({name})" in text for name in pictures)


def test_failures_and_undefined_values_are_in_the_report(tiny, tmp_path):
    from eyeshine.study.report import markdown

    header = {
        "identity": {"dataset": {"dataset": "made"}, "bundle": "0" * 64, "seeds": [0], "eyeshine": "1",
                     "methods": {"one": {"method": "a"}, "two": {"method": "b", "n": 3}, "never": {"method": "c"}}},
        "facts": {"bundle": "tiny", "provider": "CPU"},
    }  # fmt: skip
    text = markdown(PRESET, tabulate(PRESET, made(seeds=(0,))), header)
    assert "two: 1 sample(s) failed and are not in the table. broken: ImageError: truncated" in text
    assert "one, mean: 1 undefined value(s) left out" in text
    assert "| never | – | – | – | – | 0 | – |" in text
    assert "Settings: two: n=3." in text


def test_a_chart_draws_each_curve_where_its_scores_are():
    """The pixels of a line's colour lie at the height of its scores."""
    shares = (0.0, 0.5, 1.0)
    falling, rising = np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.25, 0.5])
    page = np.asarray(chart("title", shares, {"a": falling, "b": rising}, "cosine")).astype(int)
    blue = np.argwhere((page == (0, 114, 178)).all(axis=2) & (np.arange(page.shape[1]) < 680))
    order = blue[np.argsort(blue[:, 1])]
    assert order[0, 0] < order[len(order) // 2, 0] < order[-1, 0]  # downwards: the score falls
    red = np.argwhere((page == (213, 94, 0)).all(axis=2) & (np.arange(page.shape[1]) < 680))
    ends = red[red[:, 1] == red[:, 1].max()][0, 0], blue[blue[:, 1] == blue[:, 1].min()][0, 0]
    assert ends[0] > ends[1]  # .5 stands lower than 1
    with pytest.raises(OptionError, match="3 points"):
        chart("title", shares, {"a": falling[:2]}, "cosine")


def test_many_methods_have_lines_of_their_own():
    curves = {f"method {k}": np.array([k / 20, k / 20]) for k in range(20)}
    page = chart("title", (0.0, 1.0), curves, "cosine")
    assert isinstance(page, Image.Image)
    colours = {tuple(c) for c in np.asarray(page).reshape(-1, 3).tolist()}
    assert {(0, 114, 178), (150, 130, 0)} <= colours


def test_a_strip_shows_the_levels_of_the_paper(tiny):
    from eyeshine.methods import METHODS

    content = next(Roads(1, size=64).samples()).open()
    one = degradation_strip(tiny, content, {"a": METHODS["grad_eclip"]})
    two = degradation_strip(tiny, content, {"a": METHODS["grad_eclip"], "b": METHODS["attention"]})
    assert one.width == two.width > 6 * 180
    assert two.height > one.height


def test_presets_are_whole():
    for preset in PRESETS.values():
        assert {column.metric for column in preset.columns} == set(preset.metrics)
        assert {column.role for column in preset.columns} == set(preset.roles)
        titles = [column.title for column in preset.columns]
        assert len(set(titles)) == len(titles)
    assert PRESETS["imagenet"].needs == {"label"}
    assert PRESETS["segmentation"].needs == {"mask"}
