"""A target that the caller differentiates: its gradient stands where the graph's own would.

Attribution methods read a target c through one thing alone, g = dc/dO[class], with O the concatenated heads of an
explained block before its output projection (the signal ``gradient``). A language model that reads the tower's class
token yields it by back-propagation: of the log-probability of a response, of one of its words, of a logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.errors import InputError, OptionError
from eyeshine.images import ImageLike
from eyeshine.manifest import Manifest
from eyeshine.methods import AnyMethod, get_method, graph_method
from eyeshine.preprocess import Preprocess
from eyeshine.request import Request, make_request
from eyeshine.targets import Target

__all__ = ["cotangent_request"]

Array = NDArray[np.float32]


def cotangent_request(
    images: ImageLike | Sequence[ImageLike],
    cotangents: ArrayLike,
    names: Sequence[str],
    values: ArrayLike,
    method: str | AnyMethod,
    *,
    preprocess: Preprocess,
    manifest: Manifest,
) -> tuple[Request, Array, Array]:
    """Check a call of ``Explainer.explain_cotangent`` and prepare its images.

    Returns:
        The request, cotangents [B, P, K, D] and values [B, P].

    Raises:
        OptionError: a method that reads no gradient, or needs the vector of a text.
        InputError: cotangents or values of another shape, not numeric or not finite.
        ImageError, TextError: images or names that cannot be used.
    """
    chosen = graph_method(get_method(method))
    if "gradient" not in chosen.signals or chosen.needs:
        reads = f"reads {', '.join(sorted(chosen.needs))}" if chosen.needs else "reads no gradient of this model"
        raise OptionError(
            f"method {chosen.name} {reads}: a cotangent is not enough, or nothing to it", got="cotangents",
            allowed="a method that reads gradients alone, such as grad_eclip",
        )  # fmt: skip
    request = make_request(images, names, chosen, None, preprocess=preprocess, manifest=manifest)
    count, targets, blocks, width = len(request.photos), len(request.texts), chosen.blocks, manifest.model.width
    full = (count, targets, blocks, width)
    shapes = [full, *([full[:2] + full[3:]] if blocks == 1 else []), *([full[1::2]] if blocks == count == 1 else [])]
    gradient = _numbers("cotangents", cotangents, shapes).reshape(full)
    scores = _numbers("values", values, [full[:2], *([full[1:2]] if count == 1 else [])]).reshape(full[:2])
    return replace(request, target=Target("external cotangent", request.texts, None)), gradient, scores


def _numbers(what: str, given: ArrayLike, shapes: list[tuple[int, ...]]) -> Array:
    """The array as float32, of one of the shapes and finite."""
    allowed = " or ".join(str(list(shape)) for shape in shapes)
    try:
        with np.errstate(over="ignore"):  # an infinity is refused below
            array = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor that requires a gradient
        raise InputError(f"{what} cannot be read ({error})", got=type(given).__name__, allowed=allowed) from error
    if array.shape not in shapes:
        raise InputError(f"{what} are of another shape", got=list(array.shape), allowed=allowed)
    if not np.isfinite(array).all():
        raise InputError(f"{what} are not finite", got="NaN or infinity", allowed="finite float32")
    return array
