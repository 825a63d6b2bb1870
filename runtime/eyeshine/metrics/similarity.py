"""Metrics of one or two masked images: Concept Drop, Negative Suppression, Confidence Drop and Increase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from eyeshine.errors import OptionError
from eyeshine.metrics.base import Direction, Score, Vectors, View, check_choice
from eyeshine.metrics.case import Case, measure, needs_of
from eyeshine.metrics.views import Clean, Masked, MaskFill

__all__ = ["ConceptDrop", "ConfidenceDrop", "ConfidenceIncrease", "NegativeSuppression"]

# Of a cosine that something is divided by: ten times what engines agree to (numerics.md). A probability may be smaller:
# its relative error is that of the logits, however small it is.
_LEAST: Final = 1e-3
_EPSILON: Final = 1e-8  # of equation 5
_BANDS: Final = (2.0, 5.0)  # of Negative Suppression
_SCALE: Final = 100.0  # the logit scale that the bands presuppose
_DUAL: Final = "Concept Attribution and Dual Explainability"
_M2IB: Final = "Wang, Rudner, Wilson, Visual Explanations of Image-Text Representations via M2IB, NeurIPS 2023"

NegativeForm = Literal["margin", "ratio_raw", "drop_ratio"]


def _drop(before: float, after: float, least: float = _LEAST) -> Score:
    """``(before - after) / before``, undefined where ``before`` is nearly 0."""
    if abs(before) <= least:
        return Score(None, flags=("the similarity of the whole image is nearly 0",))
    flags = () if before > 0 else ("the similarity of the whole image is negative: the sign of its drop is turned",)
    return Score((before - after) / before, flags=flags)


@dataclass(frozen=True)
class ConceptDrop:
    """Equation 4: the share of the similarity that is lost when the hot region is removed, ``(S - S') / S``.

    A fraction; the paper prints it under "x 100 %". Bands: above 0 "critical", else "not critical".

    Attributes:
        score: S, the "cosine" or "prob", the text's softmax probability among the labels.
        fill, binary: of the mask, see ``Masked``.
    """

    score: Literal["cosine", "prob"] = "cosine"
    fill: MaskFill = "mean"
    binary: float | None = None

    name: ClassVar[str] = "concept_drop"
    direction: ClassVar[Direction] = "higher"
    unit: ClassVar[str] = "fraction"
    reference: ClassVar[str] = f"{_DUAL}, equation 4"

    def __post_init__(self) -> None:
        check_choice("score", self.score, ("cosine", "prob"))
        Masked(False, self.fill, self.binary)

    @property
    def needs(self) -> frozenset[str]:
        return needs_of(self.score)

    @property
    def views(self) -> tuple[View, ...]:
        return Clean(), Masked(False, self.fill, self.binary)

    def read(self, case: Case, vectors: Vectors) -> Score:
        clean, removed = (float(measure(case, self.score, vectors[view])[0]) for view in self.views)
        drop = _drop(clean, removed, _LEAST if self.score == "cosine" else 0.0)
        if drop.value is None:
            return drop
        return Score(drop.value, band="critical" if drop.value > 0 else "not critical", flags=drop.flags)


@dataclass(frozen=True)
class NegativeSuppression:
    """How well the kept region tells the text from a negative one.

    Equation 5 as printed, ``S(I, T+) / (S(I, T-) + e)``, holds no mask, cannot be negative and cannot reach the paper's
    numbers with cosines. Its logarithm on softmax probabilities can, and is the default: the logit margin
    ``s (cos(I', T+) - cos(I', T-))``, s the model's logit scale, I' the image times the map. Bands, for the margin
    alone: above 5 "distinguishes", from 2 "partly", below 2 "fails"; they presuppose s = 100, another s is flagged.

    Attributes:
        form: "margin"; "ratio_raw" (equation 5 on cosines; with ``on="full"`` literally); "drop_ratio" (Concept Drop
            of the text over that of the negative text).
        on: "kept", the image times the map; or "full", the whole image.
        fill, binary: of the mask, see ``Masked``.
    """

    form: NegativeForm = "margin"
    on: Literal["kept", "full"] = "kept"
    fill: MaskFill = "mean"
    binary: float | None = None

    name: ClassVar[str] = "negative_suppression"
    direction: ClassVar[Direction] = "higher"
    needs: ClassVar[frozenset[str]] = frozenset({"contrast"})
    reference: ClassVar[str] = f"{_DUAL}, equation 5"

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(NegativeForm))
        check_choice("on", self.on, ("kept", "full"))
        Masked(True, self.fill, self.binary)
        if self.form == "drop_ratio" and self.on == "full":
            raise OptionError("a drop compares two images", got="on='full'", cure="leave on out, or form='margin'")

    @property
    def unit(self) -> str:
        return "log odds" if self.form == "margin" else "ratio"

    @property
    def views(self) -> tuple[View, ...]:
        if self.form == "drop_ratio":
            return Clean(), Masked(False, self.fill, self.binary)
        return (Clean(),) if self.on == "full" else (Masked(True, self.fill, self.binary),)

    def read(self, case: Case, vectors: Vectors) -> Score:
        if self.form == "margin":
            return self._margin(case, float(measure(case, "margin", vectors[self.views[0]])[0]))
        assert case.contrast is not None
        pairs = [(float(vectors[view][0] @ case.text), float(vectors[view][0] @ case.contrast)) for view in self.views]
        if self.form == "ratio_raw":
            (positive, negative), what = pairs[0], "the similarity of the negative text is nearly 0"
            negative += _EPSILON
            flags: tuple[str, ...] = ()
        else:
            drops = [_drop(before, after) for before, after in zip(*pairs, strict=True)]
            flags, what = drops[0].flags + drops[1].flags, "the drop of the negative text is nearly 0"
            if drops[0].value is None or drops[1].value is None:
                return Score(None, flags=flags)
            positive, negative = drops[0].value, drops[1].value
        return Score(None, flags=(*flags, what)) if abs(negative) < _LEAST else Score(positive / negative, flags=flags)

    def _margin(self, case: Case, value: float) -> Score:
        band = "distinguishes" if value > _BANDS[1] else "fails" if value < _BANDS[0] else "partly"
        usual = abs(case.logit_scale - _SCALE) < 0.5
        flags = () if usual else (f"the bands presuppose a logit scale of 100, the model's is {case.logit_scale:.4g}",)
        return Score(value, band=band, flags=flags)


@dataclass(frozen=True)
class ConfidenceDrop:
    """What the cosine loses when only the hot region is kept, ``max(0, S - S')``.

    M2IB prints it times 100. It multiplies by the soft map after normalisation; its released file hands the metric
    a map without the axis it indexes, so that the first row of the map is used for all rows: that is not done here.

    Attributes:
        form: "absolute", in cosine; or "percent" of S, as Grad-CAM++ defines it.
        fill, binary: of the mask, see ``Masked``.
    """

    form: Literal["absolute", "percent"] = "absolute"
    fill: MaskFill = "mean"
    binary: float | None = None

    name: ClassVar[str] = "confidence_drop"
    direction: ClassVar[Direction] = "lower"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = _M2IB

    def __post_init__(self) -> None:
        check_choice("form", self.form, ("absolute", "percent"))
        Masked(True, self.fill, self.binary)

    @property
    def unit(self) -> str:
        return "cosine" if self.form == "absolute" else "percent"

    @property
    def views(self) -> tuple[View, ...]:
        return Clean(), Masked(True, self.fill, self.binary)

    def read(self, case: Case, vectors: Vectors) -> Score:
        clean, kept = (float(measure(case, "cosine", vectors[view])[0]) for view in self.views)
        if self.form == "absolute":
            return Score(max(0.0, clean - kept))
        if clean < _LEAST:
            return Score(None, flags=("the similarity of the whole image is not positive",))
        return Score(100 * max(0.0, clean - kept) / clean)


@dataclass(frozen=True)
class ConfidenceIncrease:
    """1 where the cosine is larger with only the hot region kept, else 0; the mean over images is a rate.

    Attributes:
        fill, binary: of the mask, see ``Masked``.
    """

    fill: MaskFill = "mean"
    binary: float | None = None

    name: ClassVar[str] = "confidence_increase"
    direction: ClassVar[Direction] = "higher"
    unit: ClassVar[str] = "0 or 1"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = _M2IB

    def __post_init__(self) -> None:
        Masked(True, self.fill, self.binary)

    @property
    def views(self) -> tuple[View, ...]:
        return Clean(), Masked(True, self.fill, self.binary)

    def read(self, case: Case, vectors: Vectors) -> Score:
        clean, kept = (float(measure(case, "cosine", vectors[view])[0]) for view in self.views)
        return Score(float(kept > clean))
