"""Disagreement of methods: where two explanations of one answer differ, at most one of them can be right.

Krishna et al., The Disagreement Problem in Explainable Machine Learning, 2022: pairwise rank correlation, overlap of
the top features, and agreement in sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from eyeshine.checks import check_share
from eyeshine.errors import OptionError
from eyeshine.study.sanity.likeness import sign_agreement, spearman, top_overlap
from eyeshine.study.sanity.maps import Row, Subjects

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Disagreement", "compare_methods"]


@dataclass(frozen=True)
class Disagreement:
    """What is compared.

    Attributes:
        share: of the patches that are the top, 0..1.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        check_share("share", self.share)


def compare_methods(explainer: Explainer, subjects: Subjects, options: Disagreement) -> Iterator[Row]:
    """Compare the maps of every pair of methods for the same image and text.

    Args:
        explainer: of the model.
        subjects: samples, and two methods or more.
        options: of the comparison.

    Yields:
        Rows ``first``, ``second`` (in the order of the methods), ``key``, ``text``, ``spearman``, ``top_overlap`` and
        ``sign_agreement``; ``error`` in their place where the engine or a map failed.

    Raises:
        OptionError: fewer than two methods.
        SignalError: the bundle lacks a method's graphs.
        ImageError: a sample that cannot be read.
    """
    if len(subjects.methods) < 2:
        raise OptionError("a comparison of methods", got=", ".join(subjects.methods), allowed="two methods or more")
    subjects.check(explainer)
    for photo in subjects.opened():
        maps = subjects.maps(explainer, photo)
        for first, second in combinations(subjects.methods, 2):
            one, other = maps[first], maps[second]
            for number, text in enumerate(photo.texts):
                row = {"first": first, "second": second, "key": photo.key, "text": str(text)}
                if isinstance(one, str) or isinstance(other, str):
                    yield row | {"error": one if isinstance(one, str) else other}
                    continue
                pair = one[0][number], other[0][number]
                yield row | {
                    "spearman": spearman(*pair),
                    "top_overlap": top_overlap(*pair, options.share),
                    "sign_agreement": sign_agreement(*pair),
                }  # fmt: skip
