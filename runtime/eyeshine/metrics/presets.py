"""The registry of metrics, and protocols of others as presets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Metric
from eyeshine.metrics.case import Measure
from eyeshine.metrics.curves import Degradation, Deletion, Insertion
from eyeshine.metrics.localisation import EnergyPointingGame, MultiObjectHitRate, PointingGame
from eyeshine.metrics.pixels import PixelAp, PixelIou, Segmentation
from eyeshine.metrics.similarity import ConceptDrop, ConfidenceDrop, ConfidenceIncrease, NegativeSuppression
from eyeshine.metrics.steps import Steps

__all__ = ["METRICS", "PRESETS", "choose_metrics"]

_CURVES: Final[tuple[Metric, ...]] = (Deletion(), Insertion(), Degradation())
_OTHERS: Final[tuple[Metric, ...]] = (
    ConceptDrop(), NegativeSuppression(), ConfidenceDrop(), ConfidenceIncrease(),
    PointingGame(), EnergyPointingGame(), MultiObjectHitRate(), PixelAp(), PixelIou(), Segmentation(),
)  # fmt: skip
METRICS: Final[dict[str, Metric]] = {metric.name: metric for metric in (*_OTHERS, *_CURVES)}
"""Every metric with its default options, by name."""


def _grad_eclip() -> dict[str, Metric]:
    """Ten points over the hotter half of the photo's pixels, each of ten steps; the image ends the insertion."""
    removed = Steps(fill="random", points=10, until=0.5, canvas="native", shortest_px=640, substeps=10)
    shown = Steps(True, "black", 10, 0.5, canvas="native", shortest_px=640, substeps=10, origin=False)
    found: dict[str, Metric] = {}
    best: tuple[Measure, ...] = ("top1", "top5", "top10")
    for score in best:
        found[f"deletion@{score[3:]}"] = Deletion(score, removed)
        found[f"insertion@{score[3:]}"] = Insertion(score, shown)
    return found


PRESETS: Final[dict[str, dict[str, Metric]]] = {
    "rise": {"deletion": Deletion("prob"), "insertion": Insertion("prob")},
    "gradeclip-imagenet": _grad_eclip(),
    "m2ib-fixed": {"confidence_drop": ConfidenceDrop(), "confidence_increase": ConfidenceIncrease()},
}
"""Protocols of others, metrics by the name they get in results; docs/metrics.md says where each stands."""


def choose_metrics(
    asked: str | Metric | Mapping[str, Metric] | Iterable[str | Metric] | None, given: frozenset[str]
) -> dict[str, Metric]:
    """The metrics that a call asks for, by the name they get in results.

    Args:
        asked: a name, a preset or a metric, or several; or metrics by names of the caller's. None: every metric that
            needs no more than was given, but for curves, which take hundreds of forward passes.
        given: what there is beside image and text: "contrast", "labels", "mask".

    Raises:
        OptionError: an unknown name, nothing, two metrics of one name, or a metric that needs more than was given.
    """
    if asked is None:
        return {metric.name: metric for metric in _OTHERS if metric.needs <= given}
    chosen: dict[str, Metric] = {}
    for name, metric in asked.items() if isinstance(asked, Mapping) else _named(asked):
        if chosen.setdefault(name, metric) != metric:
            cure = "name them: metrics={'name': metric, ...}"
            raise OptionError("two metrics of one name", got=repr(name), cure=cure)
        if missing := metric.needs - given:
            what = " and ".join(_HOW[need] for need in sorted(missing))
            raise OptionError(f"metric {name} needs {what}", got="none", cure="pass it, or leave the metric out")
    if not chosen:
        raise OptionError("no metric", got=repr(asked), allowed=", ".join([*METRICS, *PRESETS]))
    return chosen


_HOW: Final = {"contrast": "a negative text (negative)", "labels": "a label set (labels)", "mask": "masks (masks)"}


def _named(asked: str | Metric | Iterable[str | Metric]) -> Iterable[tuple[str, Metric]]:
    entries: Iterable[Any] = asked if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
    for entry in entries:
        if isinstance(entry, str) and entry in PRESETS:
            yield from PRESETS[entry].items()
        elif isinstance(entry, str):
            if entry not in METRICS:
                allowed = ", ".join([*METRICS, *PRESETS])
                raise OptionError("unknown metric", got=repr(entry), allowed=allowed)
            yield entry, METRICS[entry]
        elif not isinstance(entry, type) and hasattr(entry, "read") and hasattr(entry, "views"):
            yield entry.name, entry
        else:
            raise OptionError("not a metric", got=repr(entry), allowed="a name, a preset or a metric")
