"""Dual explainability: does an answer rest on what the prompt asks for, and on the image?

Section III-J of "Concept Attribution and Dual Explainability"; the rule, its calibration and its limits stand in
``docs/dual.md``.
"""

from __future__ import annotations

from eyeshine.dual.comparison import Comparison, Shape
from eyeshine.dual.concepts import Concept, extract_concepts
from eyeshine.dual.options import DualOptions
from eyeshine.dual.request import Answerer, explain_dual
from eyeshine.dual.result import Dual
from eyeshine.dual.side import Side
from eyeshine.dual.thresholds import Thresholds
from eyeshine.dual.verdict import KINDS, Kind, Signals, Verdict, decide

__all__ = [
    "KINDS",
    "Answerer",
    "Comparison",
    "Concept",
    "Dual",
    "DualOptions",
    "Kind",
    "Shape",
    "Side",
    "Signals",
    "Thresholds",
    "Verdict",
    "decide",
    "explain_dual",
    "extract_concepts",
]
