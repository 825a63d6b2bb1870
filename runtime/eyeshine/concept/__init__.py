"""Concept Attribution's settings, choice of heads and contrastive texts; the method is in ``eyeshine.methods``."""

from eyeshine.concept.candidates import CANDIDATES, load_candidates
from eyeshine.concept.contrast import Contrast, ContrastOptions
from eyeshine.concept.options import BACKGROUNDS, ConceptOptions
from eyeshine.concept.selection import HeadSelection

__all__ = [
    "BACKGROUNDS",
    "CANDIDATES",
    "ConceptOptions",
    "Contrast",
    "ContrastOptions",
    "HeadSelection",
    "load_candidates",
]
