"""Interventions: take a part of the model or of the image away, and see what becomes of the similarity."""

from __future__ import annotations

from eyeshine.interventions.changes import Changes, Part
from eyeshine.interventions.result import Intervention, Sweep
from eyeshine.interventions.run import ablate_each, head_means, intervene

__all__ = ["Changes", "Intervention", "Part", "Sweep", "ablate_each", "head_means", "intervene"]
