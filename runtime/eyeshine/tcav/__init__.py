"""Concept vectors of hidden activations: what a model knows of a concept, and what it does with it.

``train_concept`` finds the direction that images of a concept have in common, ``tcav`` says how often a prompt's
similarity rises along it and whether that could be chance, ``audit`` by how much; ``ConceptMap`` and
``ConceptEvidence`` draw where in an image. They read a bundle that was exported with ``--signals hidden``; classifiers
and statistics are scikit-learn's and SciPy's (``pip install 'eyeshine[concepts]'``).

Reference: Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors
(TCAV), ICML 2018.
"""

from __future__ import annotations

from eyeshine.tcav.audit import Audit, AuditOptions, audit
from eyeshine.tcav.maps import ConceptEvidence, ConceptMap
from eyeshine.tcav.options import TcavOptions
from eyeshine.tcav.significance import Tcav, tcav
from eyeshine.tcav.vector import ConceptVector, train_concept

__all__ = [
    "Audit",
    "AuditOptions",
    "ConceptEvidence",
    "ConceptMap",
    "ConceptVector",
    "Tcav",
    "TcavOptions",
    "audit",
    "tcav",
    "train_concept",
]
