"""A study over many machines by Ray Data: one explainer per worker, the same records as on one machine.

The driver names samples by their number; a worker opens them itself, so that no image travels, and sends back records.
Every machine needs eyeshine, the data set's files and the bundle, all at the same paths; a bundle of another hash is
refused. Numbers are those of ``run`` with as many threads: each sample is examined by itself, by the same code.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.checks import check_whole
from eyeshine.datasets import Sample
from eyeshine.engine import CpuOptions, EngineOptions
from eyeshine.errors import BundleError, EngineError, EyeshineError, OptionError
from eyeshine.explainer import Explainer
from eyeshine.preprocess import Preprocess
from eyeshine.study.records import Records
from eyeshine.study.run import Study, check_study, examiner

__all__ = ["LOCAL", "check_ray", "run_on_ray"]

LOCAL: Final = "local"
"""Address of a cluster that is started on this machine, and ended afterwards."""
_TOGETHER = 16  # samples that a worker takes at once: what is lost where the driver is killed


@dataclass(frozen=True)
class _Recipe:
    """How a worker makes its explainer; plain values, because sessions do not travel."""

    folder: str
    hash: str
    options: EngineOptions
    preprocess: Preprocess
    templates: tuple[str, ...]

    @classmethod
    def of(cls, explainer: Explainer, threads: int) -> _Recipe:
        options = explainer.options
        if isinstance(options, CpuOptions):
            options = replace(options, threads=threads)
        folder = str(Path(explainer.bundle.folder).resolve())
        return cls(folder, explainer.bundle.hash, options, explainer.preprocess, tuple(explainer.texts.templates))

    def make(self) -> Explainer:
        bundle = Bundle.open(self.folder)
        if bundle.hash != self.hash:
            cure = "copy the driver's bundle there"
            raise BundleError("a worker has another bundle", got=f"{self.folder} {bundle.hash[:12]}", cure=cure)
        explainer = Explainer(bundle, self.options, templates=self.templates)
        explainer.preprocess = self.preprocess
        return explainer


class _Worker:
    """Examines samples by their numbers; one explainer for all of them."""

    def __init__(self, study: Study, recipe: _Recipe, strict: bool) -> None:
        self._study, self._strict = study, strict
        self._explainer = recipe.make()
        self._samples: Iterator[Sample] = iter(())
        self._next = -1

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        examine = examiner(self._study)
        rows = []
        for number, left in zip(batch["number"], batch["todo"], strict=True):
            sample = self._sample(int(number))
            todo = [(str(name), int(seed)) for name, seed in json.loads(left)]
            found = examine(self._study, self._explainer, sample, todo, strict=self._strict)
            rows.append(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return {"records": np.array(rows, dtype=object)}

    def _sample(self, number: int) -> Sample:
        """A sample by its number; the one after the last comes without reading a table from its first row again."""
        if number != self._next:
            self._samples = iter(self._study.dataset.samples(number))
        self._next = number + 1
        return next(self._samples)


def run_on_ray(
    study: Study,
    explainer: Explainer,
    folder: Path,
    *,
    address: str = LOCAL,
    workers: int | None = None,
    threads: int = 1,
    resume: bool = False,
    strict: bool = False,
) -> int:
    """As ``study.run``, by the workers of a Ray cluster.

    Args:
        study: what to run.
        explainer: of the model; workers make one like it.
        folder: where the records go, on the driver, in the order of the samples.
        address: of a cluster, "auto" for the one that this machine belongs to, or "local".
        workers: how many; by default as many as the cluster has GPUs for an engine on them, else CPUs over ``threads``.
        threads: CPUs of a worker, and threads of an engine on the CPU.
        resume, strict: as in ``study.run``.

    Returns:
        How many records were made.

    Raises:
        OptionError: Ray is not installed; ``workers`` or ``threads`` outside 1..10,000; see ``Records``.
        SignalError: the bundle lacks graphs.
        EngineError: a worker failed, or the cluster has no room for one.
        ImageError, TextError: of a sample, where ``strict``.
    """
    check_ray()
    check_whole("threads", threads, 1, 10_000)
    if workers is not None:
        check_whole("workers", workers, 1, 10_000)
    check_study(study, explainer)
    facts = {"bundle": explainer.bundle.name, "samples": len(study), **explainer.options.metadata()}
    with Records(folder, study.identity(explainer), facts, resume=resume) as records:
        left = list(_left(study, records))
        if not left:
            return 0
        made, on_gpu = 0, explainer.options.device_type == "cuda"
        recipe = _Recipe.of(explainer, threads)
        with _cluster(address):
            for found in _results(study, recipe, left, workers, threads, on_gpu, strict):
                records.add(found)
                made += len(found)
    return made


def check_ray() -> None:
    """Raise OptionError where Ray is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise OptionError("Ray is not installed", got=str(error), cure="pip install 'eyeshine[ray]'") from error


def _left(study: Study, records: Records) -> Iterator[dict[str, Any]]:
    tasks = study.tasks
    for number, sample in enumerate(islice(study.dataset.samples(), study.limit)):
        if todo := [task for task in tasks if (sample.key, *task) not in records.done]:
            yield {"number": number, "todo": json.dumps(todo)}


def _results(
    study: Study,
    recipe: _Recipe,
    left: list[dict[str, Any]],
    workers: int | None,
    threads: int,
    on_gpu: bool,
    strict: bool,
) -> Iterator[list[dict[str, Any]]]:
    """The records of each sample, in their order, as blocks of samples are done."""
    import ray
    from ray.exceptions import RayError

    blocks = -(-len(left) // _TOGETHER)
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = int(there.get("GPU", 0)) if on_gpu else int(there.get("CPU", 0)) // threads
    count = min(workers or room, room, blocks)
    if count < 1:
        raise EngineError("the cluster has no room for a worker", got=there, cure="fewer threads, or another provider")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    rows = ray.data.from_items(left, override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_kwargs={"study": study, "recipe": recipe, "strict": strict},
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=threads,
        num_gpus=1 if on_gpu else None,
    )
    try:
        for row in rows.iter_rows():
            yield json.loads(row["records"])
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, EyeshineError):
            raise cause from error
        raise EngineError("a worker of the Ray cluster failed", got=str(error).strip().splitlines()[-1]) from error


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Ray, connected; left as it was found."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address, include_dashboard=False if address == LOCAL else None, log_to_driver=False,
                 logging_level=logging.WARNING)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError("the Ray cluster does not answer", got=f"{address}: {error}", cure="--ray local") from error
    try:
        yield
    finally:
        ray.shutdown()
