"""Run a search, and write what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from eyeshine.datasets import Sample
from eyeshine.errors import OptionError, OutputError
from eyeshine.explainer import Explainer
from eyeshine.study.records import Records, read_records
from eyeshine.study.run import Study, check_study
from eyeshine.study.sample import examine_maps
from eyeshine.study.table import Cell, interval_of, tabulate
from eyeshine.study.tune.options import Tuning
from eyeshine.study.tune.search import Trial, halve, plan

__all__ = ["SETTINGS", "Tuned", "tune"]

SETTINGS: Final = "settings.json"
"""Of the winner; ``eyeshine explain --settings`` reads it."""
_RECORD, _TRIALS = "tuned.json", "trials.jsonl"


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        settings: of the winner, with the fixed ones.
        value: of the winner in the column that decided, over the samples of the last round.
        interval: 95 % of the bootstrap over samples.
        second: name of the next best candidate of the last round.
        margin: by how much the winner is better, positive.
        margin_interval: of that, on the same draws; one that holds 0 says that the data do not tell the two apart.
        trials: of all rounds.
    """

    settings: dict[str, Any]
    value: float
    interval: tuple[float, float]
    second: str
    margin: float
    margin_interval: tuple[float, float]
    trials: tuple[Trial, ...]

    @property
    def decisive(self) -> bool:
        """Whether the interval of the margin leaves out 0."""
        return self.margin_interval[0] > 0


def tune(tuning: Tuning, explainer: Explainer, folder: Path, *, resume: bool = False) -> Tuned:
    """Search, and write ``settings.json``, which ``explain --settings`` reads, ``tuned.json`` and ``trials.jsonl``.

    Args:
        tuning: what is searched.
        explainer: of the model.
        folder: for these and the records of every sample.
        resume: carry on what is there; what is done is not done again.

    Raises:
        OptionError: see ``Records``; nothing was defined.
        SignalError: the bundle lacks graphs of a candidate.
        OutputError: it cannot be written.
    """
    study, column = tuning.study, tuning.decides
    check_study(study, explainer)
    higher = tuning.preset.metrics[column.metric].direction == "higher"
    cells: dict[str, Cell] = {}

    def score(names: Sequence[str], samples: int) -> dict[str, float | None]:
        first = list(islice(study.dataset.samples(), samples))
        _examine(study, explainer, first, names, records)
        keys = {sample.key for sample in first}
        rows = (row for row in read_records(folder) if row["method"] in names and row["key"] in keys)
        table = tabulate(tuning.preset, rows)
        cells.clear()
        cells.update({name: row[column.title] for name, row in table.cells.items() if _is_number(row, column.title)})
        return {name: cells[name].value if name in cells else None for name in names}

    facts = {"bundle": explainer.bundle.name, "samples": tuning.scenes, **explainer.options.metadata()}
    with Records(folder, study.identity(explainer), facts, resume=resume) as records:
        rungs = plan(len(study.methods), min(tuning.scenes, len(study.dataset)), tuning.eta)
        trials = halve(study.methods, rungs, score, higher=higher)
    found = _tuned(tuning, trials, cells, higher)
    _write(tuning, explainer, found, folder)
    return found


def _examine(
    study: Study, explainer: Explainer, samples: Iterable[Sample], names: Sequence[str], records: Records
) -> None:
    """What is missing of these samples and candidates."""
    tasks = [task for task in study.tasks if task[0] in names]
    for sample in samples:
        if todo := [task for task in tasks if (sample.key, *task) not in records.done]:
            records.add(examine_maps(study, explainer, sample, todo))


def _tuned(tuning: Tuning, trials: list[Trial], cells: Mapping[str, Cell], higher: bool) -> Tuned:
    last = [trial for trial in trials if trial.rung == trials[-1].rung]
    winner = next(trial.name for trial in last if trial.kept)
    others = [name for name in cells if name != winner]
    if winner not in cells or not others:
        raise OptionError("too few candidates have a value", got=f"{len(cells)} of {len(last)}", cure="more samples")
    sign = 1 if higher else -1
    second = max(others, key=lambda name: sign * cells[name].value)
    best, next_best = cells[winner], cells[second]
    return Tuned(
        settings={**tuning.fixed, **tuning.candidates[winner]},
        value=best.value,
        interval=best.interval,
        second=second,
        margin=sign * (best.value - next_best.value),
        margin_interval=interval_of(sign * (best.draws - next_best.draws)),
        trials=tuple(trials),
    )


def _write(tuning: Tuning, explainer: Explainer, found: Tuned, folder: Path) -> None:
    record = {
        "method": tuning.method,
        "preset": tuning.preset.name,
        "column": tuning.decides.title,
        "direction": tuning.preset.metrics[tuning.decides.metric].direction,
        "dataset": tuning.dataset.describe(),
        "split": tuning.split,
        "scenes": tuning.scenes,
        "eta": tuning.eta,
        "bundle": explainer.bundle.hash,
        **{name: value for name, value in asdict(found).items() if name != "trials"},
        "decisive": found.decisive,
    }
    lines = [
        json.dumps({**asdict(trial), "settings": {**tuning.fixed, **tuning.candidates[trial.name]}}) + "\n"
        for trial in found.trials
    ]
    try:
        (folder / SETTINGS).write_text(json.dumps(found.settings, indent=1) + "\n", "utf-8")
        (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        (folder / _TRIALS).write_text("".join(lines), "utf-8")
    except OSError as error:
        raise OutputError("the result cannot be written", got=str(error), cure="make room, then resume") from error


def _is_number(row: Mapping[str, Cell], title: str) -> bool:
    return title in row and not math.isnan(row[title].value)
