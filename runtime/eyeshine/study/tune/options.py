"""What is searched, and that no result of it is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

from eyeshine import roads
from eyeshine.checks import check_whole
from eyeshine.datasets import Dataset, Roads
from eyeshine.errors import OptionError
from eyeshine.methods import AnyMethod
from eyeshine.methods.configure import configure
from eyeshine.study.preset import Column, Preset
from eyeshine.study.run import Study

__all__ = ["REPORTED_FROM", "Tuning", "check_unreported"]

REPORTED_FROM: Final = roads.HELD_OUT_FROM + 500_000
"""Scenes of this seed and of later ones are what model cards and tables are made of; those before are for tuning."""
_REPORTED = "test"
_UNREPORTED = ("val", "restval", "train")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is searched.

    Attributes:
        method: a name from ``eyeshine methods``.
        grid: setting -> values; every combination is a candidate.
        preset: the protocol, of the image side.
        dataset: a validation split, see ``check_unreported``.
        split: what the caller says that the data is, where a data set does not say it: "val", "restval" or "train".
        column: title of the column of the protocol that decides; by default its only one.
        fixed: settings that all candidates have.
        scenes: samples of the last round.
        eta: successive halving keeps one of ``eta`` candidates per round, 2..10; None runs all on all samples.
        seeds: as of a ``Study``.
        max_batch, truncate: as of a ``Study``.

    Raises:
        OptionError: fewer than two candidates, a setting or value that the method does not take, no such column, or
            data that is reported.
    """

    method: str
    grid: Mapping[str, Sequence[Any]] = field(hash=False)
    preset: Preset
    dataset: Dataset
    split: str | None = None
    column: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict, hash=False)
    scenes: int = 100
    eta: int | None = None
    seeds: tuple[int, ...] = (0,)
    max_batch: int = 32
    truncate: bool = False

    def __post_init__(self) -> None:
        check_whole("scenes", self.scenes, 1, 1_000_000)
        if self.eta is not None:
            check_whole("eta", self.eta, 2, 10)
        if self.preset.side != "image":
            raise OptionError("tuning is of maps of images", got=f"preset {self.preset.name}", cure="another preset")
        if twice := sorted(self.grid.keys() & self.fixed.keys()):
            raise OptionError("settings that are searched and fixed", got=", ".join(twice), cure="leave one out")
        if len(self.candidates) < 2:
            raise OptionError("a search of one candidate", got=dict(self.grid), allowed="two combinations or more")
        for settings in self.candidates.values():
            configure(self.method, {**self.fixed, **settings})
        check_unreported(self.dataset, self.scenes, self.split)
        _column(self.preset, self.column)

    @property
    def candidates(self) -> dict[str, dict[str, Any]]:
        """Settings by the name of the candidate, in the order of the grid."""
        found = [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]
        return {_name(settings): settings for settings in found}

    @property
    def decides(self) -> Column:
        """The column that decides."""
        return _column(self.preset, self.column)

    @property
    def study(self) -> Study:
        """The candidates as methods of a study."""
        methods: dict[str, AnyMethod] = {
            name: configure(self.method, {**self.fixed, **settings}) for name, settings in self.candidates.items()
        }
        return Study(
            dataset=self.dataset, methods=methods, preset=self.preset, seeds=self.seeds,
            limit=self.scenes, max_batch=self.max_batch, truncate=self.truncate,
        )  # fmt: skip


def check_unreported(dataset: Dataset, scenes: int, split: str | None = None) -> None:
    """Raise OptionError where results of these samples are reported, or nobody says that they are not.

    Settings that were chosen on what is reported make the report a training error. Of ``roads`` the seeds from
    ``REPORTED_FROM`` on are reported; Karpathy's test split is; of other files only the caller can know, and says it by
    ``split``.
    """
    if isinstance(dataset, Roads):
        last = dataset.first + min(scenes, len(dataset)) - 1
        if last >= REPORTED_FROM:
            allowed = f"seeds {roads.HELD_OUT_FROM} to {REPORTED_FROM - 1}"
            cure = "begin earlier (--first), or take fewer scenes"
            raise OptionError(
                "results of these scenes are reported", got=f"seeds up to {last}", allowed=allowed, cure=cure
            )
        return
    said = dataset.describe().get("split", split)
    if said == _REPORTED:
        raise OptionError("results of this split are reported", got=said, allowed=", ".join(_UNREPORTED))
    if said not in _UNREPORTED:
        cure = "split='val' (--split val), if no result of these samples is reported"
        raise OptionError(f"data set {dataset.name} does not say which split it is", got=repr(said), cure=cure)


def _name(settings: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in settings.items()).replace(" ", "")


def _column(preset: Preset, title: str | None) -> Column:
    named = {column.title: column for column in preset.columns}
    if title is None and len(named) == 1:
        return preset.columns[0]
    if title not in named:
        cure = "name the column that decides (--column)"
        raise OptionError("which column decides", got=repr(title), allowed=", ".join(named), cure=cure)
    return named[title]
