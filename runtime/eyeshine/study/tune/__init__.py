"""Tune a method's settings: a grid, whole or by successive halving, on data that no result is reported of.

Candidates are compared as the methods of a study are: on the same samples, with the same records on disk, and by the
same bootstrap, so that the winner comes with its margin over the second and the interval of that.
"""

from __future__ import annotations

from eyeshine.study.tune.options import REPORTED_FROM, Tuning, check_unreported
from eyeshine.study.tune.run import SETTINGS, Tuned, tune
from eyeshine.study.tune.search import Rung, Trial, halve, plan

__all__ = ["REPORTED_FROM", "SETTINGS", "Rung", "Trial", "Tuned", "Tuning", "check_unreported", "halve", "plan", "tune"]
