"""Run a study: every method on every sample of a data set, under one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from eyeshine.bundle import Bundle
from eyeshine.datasets import Dataset, Sample
from eyeshine.errors import OptionError
from eyeshine.explainer import Explainer
from eyeshine.methods import AnyMethod, by_passes, graph_method
from eyeshine.methods.configure import configure, settings_of
from eyeshine.study.preset import Preset
from eyeshine.study.records import Records
from eyeshine.study.sample import examine_maps
from eyeshine.study.words import check_words, examine_words

__all__ = ["Study", "check_graphs", "check_study", "examiner", "run"]

Examine: TypeAlias = Callable[..., list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared on what, and how.

    Attributes:
        dataset: the samples.
        methods: by the names that they get in results.
        preset: the protocol.
        seeds: of the order of ties, of random fills, and of methods that draw (a setting ``seed``). A method that draws
            nothing, under metrics that draw nothing, runs with the first alone: the others would repeat it.
        limit: stop after so many samples; None takes all. Not part of the identity: more can be added later.
        max_batch: most images of one forward pass.
        truncate: cut texts that are longer than the context.

    Raises:
        OptionError: no method or seed, a limit below 1, or samples that lack what the protocol needs.
    """

    dataset: Dataset
    methods: Mapping[str, AnyMethod] = field(hash=False)
    preset: Preset
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    max_batch: int = 32
    truncate: bool = False

    def __post_init__(self) -> None:
        if not self.methods:
            raise OptionError("a study without a method", cure="--method NAME, eyeshine methods lists them")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise OptionError("seeds are different whole numbers", got=self.seeds, allowed="one or more, from 0 on")
        if self.limit is not None and self.limit < 1:
            raise OptionError("a study of no sample", got=self.limit, allowed="1 and more")
        missing = self.preset.needs - self.dataset.gives
        if any("labels" in metric.needs for metric in self.preset.metrics.values()) and not self.dataset.labels:
            missing |= {"label set"}
        if missing:
            raise OptionError(
                f"preset {self.preset.name} needs what data set {self.dataset.name} does not have",
                got=", ".join(sorted(missing)), cure="another preset, or other texts (--texts)",
            )  # fmt: skip

    def __len__(self) -> int:
        """How many samples."""
        return min(len(self.dataset), self.limit or len(self.dataset))

    @property
    def tasks(self) -> list[tuple[str, int]]:
        """(method, seed) of every sample."""
        drawn = any(hasattr(metric, "seeded") for metric in self.preset.metrics.values())
        return [
            (name, seed)
            for name, method in self.methods.items()
            for seed in (self.seeds if drawn or "seed" in settings_of(method) else self.seeds[:1])
        ]

    def method(self, name: str, seed: int) -> AnyMethod:
        """A method of the study with a seed; itself where it draws nothing."""
        method = self.methods[name]
        return configure(cast(Any, method), {"seed": seed}) if "seed" in settings_of(method) else method

    def metrics(self, seed: int) -> dict[str, Any]:
        """The protocol's metrics with a seed, by name."""
        named: Mapping[str, Any] = self.preset.metrics
        return {name: each.seeded(seed) if hasattr(each, "seeded") else each for name, each in named.items()}

    def identity(self, explainer: Explainer) -> dict[str, Any]:
        """What the results depend on; plain values."""
        from eyeshine import __version__

        engine = {key: value for key, value in explainer.options.metadata().items() if key != "threads"}
        return {
            "eyeshine": __version__,
            "bundle": explainer.bundle.hash,
            "engine": engine,
            "preprocess": explainer.preprocess.as_manifest(),
            "templates": list(explainer.texts.templates),
            "dataset": self.dataset.describe(),
            "preset": self.preset.name,
            "metrics": {name: {"metric": m.name, **asdict(cast(Any, m))} for name, m in self.preset.metrics.items()},
            "methods": {
                name: {"method": method.name, **{key: _plain(value) for key, value in settings_of(method).items()}}
                for name, method in self.methods.items()
            },
            "seeds": list(self.seeds),
            "truncate": self.truncate,
        }


def run(
    study: Study,
    explainer: Explainer,
    folder: Path,
    *,
    resume: bool = False,
    strict: bool = False,
    progress: bool = False,
    after: Callable[[int], None] | None = None,
) -> int:
    """Run what is not done yet, sample by sample; what is done is on disk at once.

    Args:
        study: what to run.
        explainer: of the model.
        folder: where the records go.
        resume: carry on what is there, if anything is.
        strict: end at the first sample that fails; by default it is recorded as failed, and counted in the report.
        progress: draw a bar on stderr.
        after: called with the number of samples that were done, after each.

    Returns:
        How many records were made.

    Raises:
        OptionError: see ``Records``, or two samples of one key.
        SignalError: the bundle lacks graphs of a method; before anything is run.
        ImageError, TextError, EngineError: of a sample, where ``strict``.
    """
    check_study(study, explainer)
    facts = {"bundle": explainer.bundle.name, "samples": len(study), **explainer.options.metadata()}
    made, tasks = 0, study.tasks
    examine = examiner(study)
    with Records(folder, study.identity(explainer), facts, resume=resume) as records, _bar(study, progress) as each:
        keys: set[str] = set()
        for number, sample in enumerate(each, 1):
            if sample.key in keys:
                raise OptionError("two samples of one key", got=repr(sample.key), cure="the data set names each apart")
            keys.add(sample.key)
            todo = [task for task in tasks if (sample.key, *task) not in records.done]
            if todo:
                found = examine(study, explainer, sample, todo, strict=strict)
                records.add(found)
                made += len(found)
            if after is not None:
                after(number)
    return made


def examiner(study: Study) -> Examine:
    """What makes the records of one sample: of maps, or of words."""
    return examine_words if study.preset.side == "text" else examine_maps


def check_study(study: Study, explainer: Explainer) -> None:
    """Raise SignalError where the bundle lacks graphs of a method, before anything is run."""
    if study.preset.side == "text":
        check_words(study, explainer)
        return
    check_graphs(study.methods.values(), explainer.bundle)


def check_graphs(methods: Iterable[AnyMethod], bundle: Bundle) -> None:
    """Raise SignalError where a bundle lacks graphs of a method."""
    for method in methods:
        if by_passes(method):
            for graph in sorted(method.graphs):
                bundle.graph(graph)
        else:
            plain = graph_method(method)
            bundle.cheapest(plain.signals, plain.blocks)


@contextmanager
def _bar(study: Study, progress: bool) -> Iterator[Iterable[Sample]]:
    """The study's samples, with a progress bar on stderr where one was asked for."""
    samples = islice(study.dataset.samples(), study.limit)
    if not progress:
        yield samples
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield bar.track(samples, total=len(study), description=study.preset.name)


def _plain(value: Any) -> Any:
    """A setting as JSON takes it."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
