"""The steps on a GPU: what each needs, made when it is needed, within a budget of time."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

import torch

from benchmarks import eager, large, postprocess
from benchmarks.budget import Budget
from benchmarks.gate import Case, NotSupportedError
from benchmarks.judge import missing_row
from benchmarks.launches import with_launches
from benchmarks.measure import measure
from benchmarks.models import Configuration, configuration
from benchmarks.plan import KERNELS, PRECISIONS, Step, steps
from benchmarks.postprocess import Signals
from benchmarks.registry import GPU_LIMITS, CaseSpec
from benchmarks.rows import Row
from benchmarks.timing import Plan
from benchmarks.workload import Workload
from eyeshine.engine import CpuOptions, CudaOptions, EngineOptions, TensorRtOptions
from eyeshine.errors import EngineError

if TYPE_CHECKING:
    from benchmarks.cases import Bench

__all__ = ["OUT_OF_TIME", "Settings", "measure_all"]

OUT_OF_TIME: Final = "not measured: out of time"
_EXPORT: Final = ("onnxruntime", "onnx", "onnx_ir", "onnxscript")
_PATCHES, _WIDTH = 196, 768  # of B/16 at 224 pixels: the maps alone


@dataclass(frozen=True)
class Settings:
    """What is measured, and with what.

    Attributes:
        device: torch's name; "cpu" is for tests.
        models: short names, in their order of worth.
        batches: B.
        precisions: of networks and bundles.
        budget_s: for everything.
        plan: of every group.
        shapes: of the kernels on large shapes.
        patches: (N, D) of the maps alone.
        repeats: calls of the maps alone, and of the kernels on large shapes, for one time.
        configure: from a short name to what a model is made of.
        folder: where exports go; None for the git-ignored folder.
    """

    device: str = "cuda"
    models: tuple[str, ...] = ("b16", "b32", "l14")
    batches: tuple[int, ...] = (1, 8, 64)
    precisions: tuple[str, ...] = PRECISIONS
    budget_s: float = 420.0
    plan: Plan = field(default_factory=lambda: Plan(rounds=100, budget_s=4.0, fewest=5, warmup=3))
    shapes: large.Shapes = field(default_factory=large.Shapes)
    patches: tuple[int, int] = (_PATCHES, _WIDTH)
    repeats: tuple[int, int] = (50, 10)
    configure: Callable[[str], Configuration] = configuration
    folder: Path | None = None

    def engines(self) -> dict[str, EngineOptions]:
        """Group -> options. Captured sizes and profiles are those of each step."""
        if self.device == "cpu":
            return {"cpu": CpuOptions(1)}
        most = max(self.batches)
        built = TensorRtOptions(build=True, images=(1, most, most), texts=(1, 10, 10))
        return {"cuda": CudaOptions(), "cuda captured": CudaOptions(capture=(1, 1)), "tensorrt": built}


def measure_all(settings: Settings, origin: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Every step that there is time for: its title, and a row for each of its cases; those without time as well.

    One by one, so that a crash in a driver or a compiler loses nothing that was measured before it.

    Args:
        settings: what to measure.
        origin: fields of ``Row`` that are the same for the whole run.
    """
    budget = Budget(settings.budget_s)
    run = _Run(settings)
    for step in steps(settings.models, list(settings.engines()), settings.batches, settings.precisions):
        common = _Common(batch=step.batch, precision=step.precision)
        if budget.allows(step.seconds):
            look = with_launches if step.model == KERNELS else None
            rows = measure(
                run.begin(step), step.cases, settings.plan, origin, step.model, step.group,
                limits=GPU_LIMITS, look=look, **common,
            )  # fmt: skip
        else:
            rows = [missing_row(origin, step.model, step.group, x, OUT_OF_TIME, **common) for x in step.cases]
        yield step.title, rows
        run.forget()


class _Common(TypedDict):
    batch: int
    precision: str


class _Run:
    """What the steps need, made when the first needs it. Networks and exports stay, what lies on the device goes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._networks: dict[str, tuple[Configuration, Any]] = {}
        self._kept: dict[str, Any] = {}
        self._broken: Exception | None = None

    def begin(self, step: Step) -> Callable[[CaseSpec], Case]:
        """Makes the cases of a step."""
        self._broken = None
        return partial(self.make, step)

    def make(self, step: Step, spec: CaseSpec) -> Case:
        """A case of a step.

        Raises:
            NotSupportedError: what it needs is not installed, or does not run here.
        """
        settings = self.settings
        if step.group == "large":
            return large.make(spec, settings.shapes, settings.device, settings.repeats[1])
        if step.group == "post":
            signals = self._once("signals", lambda: Signals.random(step.batch, spec.prompts, *settings.patches))
            return postprocess.make(spec, signals, settings.device, settings.repeats[0])
        workload = self._once("workload", lambda: self._workload(step))
        if step.group == "torch":
            visual = self._once("visual", lambda: self._visual(step))
            return eager.make(spec, workload, visual, step.precision)
        bench: Bench = self._once("bench", lambda: self._bench(step, workload))
        return bench.make(spec)

    def forget(self) -> None:
        """Free the device after a step."""
        if not self._kept:
            return
        self._kept = {}
        gc.collect()
        if self.settings.device != "cpu":
            torch.cuda.empty_cache()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """Made once for a step; what failed fails again for its other cases, without trying."""
        if name not in self._kept:
            if self._broken is not None:
                raise self._broken
            try:
                self._kept[name] = make()
            except Exception as error:
                self._broken = error
                raise
        return self._kept[name]

    def _network(self, model: str) -> tuple[Configuration, Any]:
        if model not in self._networks:
            made = self.settings.configure(model)
            self._networks[model] = made, made.build()
        return self._networks[model]

    def _workload(self, step: Step) -> Workload:
        made, network = self._network(step.model)
        return Workload(made.source(network), step.batch, self.settings.device)

    def _visual(self, step: Step) -> Any:
        visual = copy.deepcopy(self._network(step.model)[1].visual)
        return visual.to(self.settings.device, eager.DTYPES[step.precision])

    def _bench(self, step: Step, workload: Workload) -> Bench:
        lacking = [module for module in _EXPORT if find_spec(module) is None]
        if lacking:
            raise NotSupportedError(f"bundles need {', '.join(lacking)}")
        options = self.settings.engines()[step.group]
        try:
            options.check_available()
        except EngineError as error:
            raise NotSupportedError(str(error)) from error
        from benchmarks.bundles import BENCH_FOLDER, prepare
        from benchmarks.cases import Bench

        made, network = self._network(step.model)
        model = prepare(made, self.settings.folder or BENCH_FOLDER, network)
        return Bench(model, workload, model.precise(step.precision), options)
