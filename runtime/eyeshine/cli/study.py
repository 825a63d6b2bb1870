"""``eyeshine evaluate --dataset``: methods over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eyeshine.errors import OptionError

if TYPE_CHECKING:
    from eyeshine.datasets import Dataset
    from eyeshine.explainer import Explainer
    from eyeshine.methods import AnyMethod
    from eyeshine.roads.layout import Variant

__all__ = [
    "Data", "DatasetName", "First", "ImagesFolder", "Limit", "Names", "Out", "Parquet", "RayAt", "Resume",
    "RetryFailed", "Seeds", "Shapes", "Source", "Split", "Strict", "TextsOf", "check_absent", "methods_of", "run_study",
    "seeds_of",
]  # fmt: skip

DatasetName = Annotated[
    str | None,
    typer.Option("--dataset", help="In place of images: roads, roads-cluttered, captions, karpathy, folders or coco."),
]
Data = Annotated[Path | None, typer.Option(help="Its table (captions), JSON (karpathy, coco) or folder (folders).")]
ImagesFolder = Annotated[Path | None, typer.Option("--images", help="Folder of its images (captions, karpathy, coco).")]
Split = Annotated[str | None, typer.Option(help="Of karpathy: train, restval, val or test.", show_default="test")]
Shapes = Annotated[str | None, typer.Option(help="Of coco: mask (extra data) or box.", show_default="mask")]
Names = Annotated[Path | None, typer.Option(help="Of folders: a file of FOLDER NAME lines.")]
TextsOf = Annotated[str | None, typer.Option("--texts", help="Of roads: label, labels or captions; or the preset's.")]
First = Annotated[int | None, typer.Option(help="Of roads: the first seed.")]
Limit = Annotated[int | None, typer.Option("--limit", "--scenes", help="Most samples; a later run may add more.")]
Seeds = Annotated[
    str | None, typer.Option(help="0,1,2: of ties, random colours, and of methods that draw.", show_default="0")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of a data set's records and report.")]
Resume = Annotated[bool, typer.Option("--resume", help="Carry on what is in the folder.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: do what failed anew.")]
Strict = Annotated[bool, typer.Option("--strict", help="End at the first sample that fails.")]
RayAt = Annotated[
    str | None,
    typer.Option("--ray", help="Run on a Ray cluster: its address, auto, or local to start one here (extra ray)."),
]
Parquet = Annotated[bool, typer.Option("--parquet", help="Write results.parquet as well.")]

_ROADS = ("texts", "first")
_TAKES: dict[str, tuple[str, ...]] = {
    "roads": _ROADS, "roads-cluttered": _ROADS, "captions": ("data", "images"), "karpathy": ("data", "images", "split"),
    "folders": ("data", "names"), "coco": ("data", "images", "shapes"),
}  # fmt: skip
"""Data sets and their options."""


@dataclass(frozen=True)
class Source:
    """The options that name a data set."""

    dataset: str
    data: Path | None = None
    images: Path | None = None
    split: str | None = None
    names: Path | None = None
    texts: str | None = None
    first: int | None = None
    limit: int | None = None
    shapes: str | None = None

    def open(self, texts: str) -> Dataset:
        """The data set; ``texts`` is what the preset wants explained.

        Raises:
            OptionError: an unknown name, an option of another data set, or files that are missing or of another form.
        """
        from eyeshine.datasets import Captions, ClassFolders, Coco, Karpathy, Roads

        if self.dataset not in _TAKES:
            raise OptionError("unknown data set", got=repr(self.dataset), allowed=", ".join(_TAKES))
        for option in ("data", "images", "split", "names", "texts", "first", "shapes"):
            if getattr(self, option) is not None and option not in _TAKES[self.dataset]:
                allowed = ", ".join(f"--{name}" for name in _TAKES[self.dataset])
                raise OptionError(f"--{option}: not an option of data set {self.dataset}", allowed=allowed)
        if self.dataset in ("roads", "roads-cluttered"):
            numbers = {"count": self.limit, "first": self.first}
            chosen: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
            variant: Variant = "cluttered" if self.dataset == "roads-cluttered" else "plain"
            return Roads(**chosen, variant=variant, texts=cast(Any, self.texts or texts))  # Roads checks it
        if self.data is None or (self.images is None and self.dataset in ("karpathy", "coco")):
            missing = "--data" if self.data is None else "--images"
            raise OptionError(f"data set {self.dataset} takes {missing}", cure="eyeshine evaluate --help")
        if self.dataset == "folders":
            return ClassFolders(self.data, self.names)
        if self.dataset == "captions" or self.images is None:
            return Captions(self.data, self.images)
        if self.dataset == "coco":
            return Coco(self.data, self.images, cast(Any, self.shapes or "mask"))  # Coco checks it
        return Karpathy(self.data, self.images, self.split or "test")


def run_study(
    load: Any,
    source: Source,
    methods: list[str],
    settings: list[str],
    names: list[str],
    out: Path | None,
    *,
    seeds: str | None,
    max_batch: int,
    truncate: bool,
    resume: bool,
    retry_failed: bool,
    strict: bool,
    parquet: bool,
    ray: str | None = None,
) -> None:
    """Run a study and write its report.

    Args:
        load: makes the explainer.
        source: the data set.
        methods: names, or "all".
        settings: ``NAME=VALUE`` of the only method, ``METHOD.NAME=VALUE`` of several.
        names: a preset, or metrics.
        out: the folder.
        seeds, max_batch, truncate, resume, retry_failed, strict, parquet, ray: as the options.
    """
    from rich.console import Console

    from eyeshine.study import Study, drop_failed, get_preset, run, write_parquet, write_report
    from eyeshine.study.parquet import check_parquet

    if out is None:
        raise OptionError("a study writes records", got="no folder", cure="--out FOLDER")
    if retry_failed and not resume:
        raise OptionError("--retry-failed carries on a study", cure="--resume --retry-failed")
    if parquet:
        check_parquet()
    preset = get_preset(tuple(names), cast(Any, source.texts or "label"))  # the data set checks it
    study = Study(
        dataset=source.open(preset.texts), methods=methods_of(methods, settings, preset.side), preset=preset,
        seeds=seeds_of(seeds), limit=source.limit, max_batch=max_batch, truncate=truncate,
    )  # fmt: skip
    explainer: Explainer = load()
    if retry_failed:
        typer.echo(f"{drop_failed(out, study.identity(explainer))} failed records dropped", err=True)
    if ray is None:
        made = run(study, explainer, out, resume=resume, strict=strict, progress=Console(stderr=True).is_terminal)
    else:
        from eyeshine.study.ray_data import run_on_ray

        threads = max(1, getattr(explainer.options, "threads", 1))
        made = run_on_ray(study, explainer, out, address=ray, threads=threads, resume=resume, strict=strict)
    typer.echo(f"{made} records made", err=True)
    report = write_report(study, explainer, out)
    if parquet:  # retrieval is scored by the report
        typer.echo(write_parquet(out))
    typer.echo(report.read_text("utf-8"))
    typer.echo(report)


def methods_of(names: list[str], settings: list[str], side: str) -> dict[str, AnyMethod]:
    """The methods of a side with their settings.

    Args:
        names: of methods, or "all".
        settings: ``NAME=VALUE`` of the only method, ``METHOD.NAME=VALUE`` of several.
        side: "image" or "text".

    Raises:
        OptionError: no such method or setting, or a value outside its range.
    """
    from eyeshine.methods import METHODS, get_method
    from eyeshine.methods.configure import configure, parse_settings
    from eyeshine.text_side import TEXT_METHODS, get_text_method

    known, get = (TEXT_METHODS, get_text_method) if side == "text" else (METHODS, get_method)
    listed = list(known) if names == ["all"] else list(dict.fromkeys(names))
    own: dict[str, dict[str, Any]] = {name: {} for name in listed}
    for setting, value in parse_settings(settings).items():
        method, dot, name = setting.partition(".")
        if not dot and len(listed) == 1:
            method, name = listed[0], setting
        if method not in own or not name:
            cure = "METHOD.NAME=VALUE, where there are several methods"
            raise OptionError("a setting of no method of this study", got=repr(setting), cure=cure)
        own[method][name] = value
    return {name: configure(cast(Any, get(name)), own[name]) for name in listed}


def seeds_of(text: str | None) -> tuple[int, ...]:
    """Seeds from numbers with commas between them; without a text seed 0.

    Raises:
        OptionError: a text of another form.
    """
    try:
        return tuple(int(part) for part in (text or "0").split(","))
    except ValueError:
        raise OptionError("--seeds takes numbers with commas between them", got=repr(text)) from None


def check_absent(given: dict[str, object], kind: str) -> None:
    """Raise OptionError where an option of the other kind of evaluation is given."""
    if there := [name for name, value in given.items() if value or type(value) is int]:
        raise OptionError(f"{', '.join(there)}: not an option of {kind}", cure="eyeshine evaluate --help")
