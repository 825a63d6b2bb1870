"""What an explanation can be trusted for: does it depend on the weights, does noise move it, do methods agree.

``randomise_weights``, ``add_noise`` and ``compare_methods`` yield rows of plain values as they are measured,
``summarise`` averages them, ``write_report`` writes tables and pictures.
"""

from __future__ import annotations

from eyeshine.study.sanity.disagreement import Disagreement, compare_methods
from eyeshine.study.sanity.likeness import sign_agreement, spearman, ssim, top_overlap
from eyeshine.study.sanity.maps import Subjects
from eyeshine.study.sanity.randomisation import Randomisation, randomise_weights
from eyeshine.study.sanity.report import Mean, summarise, write_report, write_rows
from eyeshine.study.sanity.stability import Stability, add_noise
from eyeshine.study.sanity.weights import WeightCopy

__all__ = [
    "Disagreement",
    "Mean",
    "Randomisation",
    "Stability",
    "Subjects",
    "WeightCopy",
    "add_noise",
    "compare_methods",
    "randomise_weights",
    "sign_agreement",
    "spearman",
    "ssim",
    "summarise",
    "top_overlap",
    "write_report",
    "write_rows",
]
