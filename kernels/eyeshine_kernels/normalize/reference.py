"""The definition of ``normalize`` in NumPy: min-max, text boosting, fusion with attention, background suppression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.backend import KernelError

__all__ = ["Boost", "NormalizeOptions", "check_shapes", "reference_normalize"]

Boost: TypeAlias = Literal["gamma", "clip"]
Array: TypeAlias = NDArray[Any]

_DTYPES: Final = ("float64", "float32", "float16")

# Beyond them 1/beta leaves what a float32 power resolves; the paper's range of interest is 0.1..20.
_BETA_LOW: Final = 1e-3
_BETA_HIGH: Final = 1e3
# Smallest normal float32: an epsilon below it becomes 0 on a device that flushes subnormals, and 0/0 is NaN.
_EPSILON_LOW: Final = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class NormalizeOptions:
    """Settings of ``normalize``, without units; names and defaults of Concept Attribution (sections III-A, B, C, I).

    Attributes:
        alpha: text strength, 0..1: weight of the gradient against the attention; not read without attention.
        beta: text boosting factor, 0.001..1000; 1 changes nothing.
        boost: "gamma" is g^(1/beta), "clip" is min(1, beta g). The paper prints no formula: "gamma" fits what it says
            of beta (below 1 weak values fall, far above 1 everything nears 1), "clip" is the other candidate.
        epsilon: added to the spread of a row, in units of the input; positive.
        background: a in tau = a max(H), 0..1 without 1: values up to tau become 0 (eq. 6 and 7); 0 is off.
        relu: drop negative gradients before the min-max; without it, the literal form, the most negative patch is 0
            and no evidence at all is somewhere above.

    Raises:
        KernelError: a value outside what is allowed.
    """

    alpha: float = 0.8
    beta: float = 0.5
    boost: Boost = "gamma"
    epsilon: float = 1e-8
    background: float = 0.0
    relu: bool = True

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "epsilon", "background"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise KernelError(f"{name} is not a finite number: got {value!r}, allowed {_ALLOWED[name]}")
        inside = {
            "alpha": 0 <= self.alpha <= 1,
            "beta": _BETA_LOW <= self.beta <= _BETA_HIGH,
            "epsilon": _EPSILON_LOW <= self.epsilon <= 1,
            "background": 0 <= self.background < 1,
        }
        for name, fits in inside.items():
            if not fits:
                raise KernelError(f"{name} is out of range: got {getattr(self, name)!r}, allowed {_ALLOWED[name]}")
        if self.boost not in get_args(Boost):
            raise KernelError(f"unknown boost: got {self.boost!r}, allowed {', '.join(get_args(Boost))}")
        if not isinstance(self.relu, bool):
            raise KernelError(f"relu is not a truth value: got {self.relu!r}, allowed True, False")


_ALLOWED: Final = {
    "alpha": "0..1",
    "beta": f"{_BETA_LOW:g}..{_BETA_HIGH:g}",
    "epsilon": f"{_EPSILON_LOW:.3g}..1",
    "background": "0..1 without 1",
}


def check_shapes(gradient: tuple[int, ...], attention: tuple[int, ...] | None) -> None:
    """Check the shapes of a call: gradient [B, P, N], attention [B, 1 or P, N] or None.

    Raises:
        KernelError: another shape.
    """
    if len(gradient) != 3:
        raise KernelError(f"gradient has the wrong number of axes: got shape {gradient}, allowed [B, P, N]")
    if attention is None:
        return
    images, prompts, patches = gradient
    if attention not in {(images, 1, patches), (images, prompts, patches)}:
        raise KernelError(
            f"attention does not fit the gradient {gradient}: got shape {attention}, "
            f"allowed ({images}, 1, {patches}) or ({images}, {prompts}, {patches})"
        )


def reference_normalize(gradient: Array, attention: Array | None, options: NormalizeOptions) -> Array:
    """Compute heat maps row by row over the last axis: ``H = (1 - alpha) SA~ + alpha boost(G~)``, then suppression.

    ``x~ = (x - min x) / (max x - min x + epsilon)``; a constant row is 0. Without attention ``H = boost(G~)``.
    Source: Concept Attribution, sections III-A (fusion), III-C (boosting), III-I (eq. 6 and 7).

    Args:
        gradient: [B, P, N], float64, float32 or float16, any unit; evidence per patch.
        attention: [B, 1 or P, N], as the gradient; one row per image serves all its prompts.
        options: settings.

    Returns:
        [B, P, N] in 0..1, in the gradient's dtype, computed in float32, or in float64 where the gradient is. A NaN
        stays in its place, the rest of its row is computed without it.

    Raises:
        KernelError: a shape or a dtype that is not allowed.
    """
    for name, array in {"gradient": gradient, "attention": attention}.items():
        if array is not None and (not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES):
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise KernelError(f"{name} cannot be computed: got {got}, allowed a NumPy array of {', '.join(_DTYPES)}")
    check_shapes(gradient.shape, None if attention is None else attention.shape)
    if not gradient.size:
        return np.empty_like(gradient)
    # The settings are rounded to the kind that is computed in, as they are for the kernel.
    kind = np.float64 if gradient.dtype == np.float64 else np.float32
    evidence = gradient.astype(kind)
    if options.relu:
        evidence = np.maximum(evidence, kind(0))
    epsilon = kind(options.epsilon)
    heat = _min_max(evidence, epsilon)
    if options.boost == "gamma":
        heat = np.power(heat, kind(1 / options.beta))
    else:
        heat = np.minimum(kind(options.beta) * heat, kind(1))
    if attention is not None:
        shared = _min_max(attention.astype(kind), epsilon)
        heat = kind(1 - options.alpha) * shared + kind(options.alpha) * heat
    if options.background:
        threshold = kind(options.background) * np.fmax.reduce(heat, axis=-1, keepdims=True)
        heat = np.where(heat <= threshold, kind(0), heat)
    return heat.astype(gradient.dtype)


def _min_max(values: Array, epsilon: np.floating[Any]) -> Array:
    low = np.fmin.reduce(values, axis=-1, keepdims=True)
    high = np.fmax.reduce(values, axis=-1, keepdims=True)
    result: Array = (values - low) / (high - low + epsilon)
    return result
