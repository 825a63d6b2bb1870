"""Evidence and attention of patches to heat maps: min-max, text boosting, fusion, background suppression, one pass."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from eyeshine_kernels.backend import Backend, resolve
from eyeshine_kernels.normalize.reference import Boost, NormalizeOptions, reference_normalize

__all__ = ["Boost", "NormalizeOptions", "normalize"]

Tensor = TypeVar("Tensor")

_DEFAULT: Final = NormalizeOptions()


def normalize(
    gradient: Tensor,
    attention: Tensor | None = None,
    *,
    options: NormalizeOptions = _DEFAULT,
    backend: Backend | None = None,
) -> Tensor:
    """Return heat maps ``H = (1 - alpha) SA~ + alpha boost(G~)`` with the background set to 0.

    Source: Concept Attribution, sections III-A (fusion), III-C (boosting), III-I (eq. 6 and 7); ``reference.py`` is
    the definition.

    Args:
        gradient: [B, P, N], evidence per image, prompt and patch, any unit, finite; a NumPy array for "reference", a
            torch tensor on a CUDA device for "triton".
        attention: [B, 1 or P, N], of the same kind; None leaves the boosted gradient alone, whatever alpha.
        options: settings.
        backend: "reference" (NumPy; the same as None) or "triton".

    Returns:
        [B, P, N] in 0..1, in the dtype and of the kind of the gradient; a constant row is all zeros.

    Raises:
        KernelError: a backend that is not there, or a shape, dtype or device that is not allowed.
    """
    result: Any
    if resolve(backend) == "triton":
        from eyeshine_kernels.normalize.kernel import triton_normalize

        result = triton_normalize(gradient, attention, options)  # type: ignore[arg-type]
    else:
        result = reference_normalize(gradient, attention, options)  # type: ignore[arg-type]
    return result  # type: ignore[no-any-return]
