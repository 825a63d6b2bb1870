"""The command that measures all methods: what it runs, how it shares the work out, and how it ranks."""

import pytest
from benchmarks import methods_results as results
from benchmarks.methods_page import page, winner

from eyeshine.methods import METHODS, by_passes
from eyeshine.study import tabulate


def _records(scores, cost, scenes=40):
    """Records of ``scenes`` samples; ``scores``: method -> metric -> value; every second insertion is .01 more."""
    for number in range(scenes):
        for method, own in scores.items():
            values = {name: own.get(name, 0.5) for name in results.METRICS_HERE}
            values["insertion"] += 0.01 * (number % 2)
            item = {"role": "truth", "text": "a car", "values": values, "parts": {}, "curves": {}}
            yield {
                "key": str(number), "method": method, "seed": 0, "items": [item],
                "explain_ms": cost[method], "encode_ms": 1.0,
            }  # fmt: skip


def test_every_registered_method_has_a_row():
    rows = {**results.methods(False), **results.methods(True)}
    assert {method.name for method in rows.values()} == METHODS.keys()
    assert all(by_passes(method) for method in results.methods(True).values())
    assert not any(by_passes(method) for method in results.methods(False).values())


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_shards_take_every_scene_once(shards):
    counts = {"graphs": 11, "passes": 5}
    keys = {kind: [] for kind in counts}
    folders = []
    for shard in range(shards):
        for name, study in results.studies(counts, shard, shards):
            keys[name.partition("-")[0]] += [sample.key for sample in study.dataset.samples()]
            folders.append(name)
    first = results.Roads().first
    for kind, count in counts.items():
        assert sorted(map(int, keys[kind])) == list(range(first, first + count))
    assert len(set(folders)) == len(folders)


def test_the_winner_is_the_most_faithful_of_the_cheap():
    scores = {
        "dear": {"insertion": 0.9, "deletion": 0.1},
        "second": {"insertion": 0.4, "deletion": 0.3},
        "first": {"insertion": 0.6, "deletion": 0.2},
    }
    table = tabulate(results.EVERYTHING, _records(scores, {"dear": 1.06, "second": 0.9, "first": 1.04}))
    rows = winner(table, list(scores), 1.0)
    assert [name for name, *_ in rows] == ["first", "second"]
    assert rows[0][1] == pytest.approx(0.405)
    assert rows[1][2] == pytest.approx(0.3)  # the same draws for both: their difference has no spread
    assert len(winner(table, list(scores), 0.9)) == 3  # a cheaper encoder makes every method cheaper


def test_the_page_tells_every_score_and_of_how_many_scenes():
    scores = {"one": {"pointing": 1.0}, "two": {"pointing": 0.25}}
    table = tabulate(results.EVERYTHING, _records(scores, {"one": 1.0, "two": 2.5}))
    origin = {"machine": {"cpu": "a CPU", "cpus": 2, "os": "an OS"}, "versions": {}, "commit": "abc", "dirty": False}
    facts = {"origin": origin, "first_seed": 7, "encode_over_plain": 0.8}
    lines = page(results.EVERYTHING, table, table, ["one", "two"], facts).splitlines()
    row = next(line for line in lines if line.startswith("| two |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    head = [cell.strip() for cell in next(line for line in lines if line.startswith("| method")).strip("|").split("|")]
    found = dict(zip(head, cells, strict=True))
    assert found["pointing ↑"] == "0.250"
    assert found["cost"] == "2.00"
    assert found["scenes"] == "40"
    assert "**1.000**" in next(line for line in lines if line.startswith("| one |"))
