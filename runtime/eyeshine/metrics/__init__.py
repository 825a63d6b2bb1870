"""Faithfulness and localisation of maps: metrics, presets, and the evaluation of an explanation.

A metric is a frozen dataclass of its options with its direction, unit, needs and reference; ``docs/metrics.md`` has the
formulas. ``Explainer.evaluate`` explains and evaluates in one call.
"""

from __future__ import annotations

from eyeshine.metrics.base import Metric, Score
from eyeshine.metrics.curves import Degradation, Deletion, Insertion
from eyeshine.metrics.evaluation import Evaluation
from eyeshine.metrics.localisation import EnergyPointingGame, MultiObjectHitRate, PointingGame
from eyeshine.metrics.pixels import PixelAp, PixelIou, Segmentation
from eyeshine.metrics.presets import METRICS, PRESETS
from eyeshine.metrics.quantus import a_batch
from eyeshine.metrics.run import evaluate
from eyeshine.metrics.similarity import ConceptDrop, ConfidenceDrop, ConfidenceIncrease, NegativeSuppression
from eyeshine.metrics.steps import Steps

__all__ = [
    "METRICS",
    "PRESETS",
    "ConceptDrop",
    "ConfidenceDrop",
    "ConfidenceIncrease",
    "Degradation",
    "Deletion",
    "EnergyPointingGame",
    "Evaluation",
    "Insertion",
    "Metric",
    "MultiObjectHitRate",
    "NegativeSuppression",
    "PixelAp",
    "PixelIou",
    "PointingGame",
    "Score",
    "Segmentation",
    "Steps",
    "a_batch",
    "evaluate",
]
