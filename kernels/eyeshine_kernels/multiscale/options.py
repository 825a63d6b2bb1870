"""Which form of MMEL is meant, with which scales and strengths; the transformation of the literal form; the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, get_args

from eyeshine_kernels.backend import KernelError

__all__ = ["EQUAL", "FLAT", "LEAST_NORM", "MLP", "TINY", "Form", "MultiscaleOptions", "SemanticMaps"]

Form: TypeAlias = Literal["resolution", "literal"]
T = TypeVar("T")

# A map r whose deviation is at most this share of its mean has no contrast to speak of: it counts as flat, S = 0.
FLAT: Final = 0.01
# A centred query below this share of the mean query is rounding error (1e-6 in float32): its relations fade to equal.
EQUAL: Final = 1e-5
# A vector shorter than this is zero: normalising divides by at least this, as torch's normalize does.
LEAST_NORM: Final = 1e-12
# Smallest normal float32: added to sums and spreads that may be 0, it changes no other.
TINY: Final = 2.0**-126

_ALLOWED: Final = {
    # exp((cosine - 1) / temperature) is at least exp(-100) at .02, where float32 ends.
    "temperature": (0.02, 10.0),
    "alpha": (0.0, 100.0),
    "beta": (0.0, 100.0),
    "rho": (0.0, 1.0),
}
_MOST_SCALES: Final = 8


@dataclass(frozen=True, kw_only=True)
class MultiscaleOptions:
    """Settings of ``multiscale``; names and defaults of MMEL (section 3.4).

    Attributes:
        form: "resolution" resizes the grid of queries, the reading that the text of the paper supports; "literal"
            is eq. 1 to 9 as printed, where a scale multiplies the queries.
        scales: 1 to 8 numbers above 0 and up to 1.
        temperature: tau of the softmax over cosines, .02..10; not read by "literal".
        alpha: enhancement strength, 0..100; 0 returns the base map.
        beta: factor of S inside the sigmoid, 0..100, the paper's signal preservation; not read by "literal".
        rho: share of alpha * max(base) that S adds where it is largest, 0..1: lights up patches without evidence of
            their own; 0 is the paper's form, which multiplies alone; not read by "literal".

    Raises:
        KernelError: a value outside what is allowed.
    """

    form: Form = "resolution"
    scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    temperature: float = 0.1
    alpha: float = 2.0
    beta: float = 2.0
    rho: float = 0.0

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise KernelError(f"unknown form: got {self.form!r}, allowed {', '.join(get_args(Form))}")
        several = isinstance(self.scales, tuple) and 1 <= len(self.scales) <= _MOST_SCALES
        if not several or not all(_is_number(scale) and 0 < scale <= 1 for scale in self.scales):
            raise KernelError(
                f"scales: got {self.scales!r}, allowed a tuple of 1 to {_MOST_SCALES} numbers above 0 and up to 1"
            )
        for name, (low, high) in _ALLOWED.items():
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise KernelError(f"{name}: got {value!r}, allowed {low:g}..{high:g}")

    def cells(self, grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the resized grid at each scale, ``ceil(s * size)``."""
        # Rounded first: .55 * 20 is 11.000000000000002, which is 11 and not 12.
        rows, columns = grid
        return tuple((math.ceil(round(s * rows, 9)), math.ceil(round(s * columns, 9))) for s in self.scales)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, eq=False)
class MLP(Generic[T]):
    """``T(x) = LayerNorm(W_2 ReLU(W_1 x + b_1) + b_2)``, eq. 3 and 4; what is absent is 1 for the gain and 0 else.

    The paper neither trains nor prints the weights: draw them with a seed of your own, say which, and use one draw.

    Attributes:
        first: W_1, [H, D], as torch's Linear keeps it; the paper has H = 2 D.
        second: W_2, [D, H].
        first_bias: b_1, [H].
        second_bias: b_2, [D].
        gain: LayerNorm's weight, [D].
        shift: LayerNorm's bias, [D].
        epsilon: added to LayerNorm's variance.
    """

    first: T
    second: T
    first_bias: T | None = None
    second_bias: T | None = None
    gain: T | None = None
    shift: T | None = None
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not _is_number(self.epsilon) or not TINY <= self.epsilon <= 1:
            raise KernelError(f"epsilon: got {self.epsilon!r}, allowed {TINY:.3g}..1")

    def named(self) -> dict[str, Any]:
        """The arrays that are there, by name."""
        names = ("first", "second", "first_bias", "second_bias", "gain", "shift")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, eq=False)
class SemanticMaps(Generic[T]):
    """What ``multiscale`` returns: NumPy arrays or torch tensors, float32 (float64 of float64 arrays).

    Attributes:
        maps: E, [B, P, N], the enhanced maps in the unit of the base map, between it and (1 + alpha + rho alpha) times
            its largest value where the base map is not negative.
        semantics: S, [B, P, N], what the gate was computed from: in "resolution" a mean of z-scores, in "literal" a sum
            of cosines over sqrt(D), the same for all prompts.
    """

    maps: T
    semantics: T
