"""From the decoder's signals to maps over the patches and over the words before.

The signals are those of ``explain.onnx``: attentions, and gradients of a log-likelihood. Row t of the cross-attention
asks for word t + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine_kernels.products import matmul

__all__ = ["Form", "MapOptions", "earlier_words", "layer_maps"]

Array = NDArray[np.float32]
Form = Literal["attention", "grad_eclip"]
"""``attention``: sum over words and heads of ReLU(A u), u = <g, V> per head. ``grad_eclip``: sum over words of
λ ReLU(<g, V>), λ the cosines of query and keys brought to 0..1, heads together."""

CONSTANT_COSINES = 1e-6  # docs/numerics.md: below it a min-max of cosines is noise


@dataclass(frozen=True)
class MapOptions:
    """How signals become maps.

    Attributes:
        form: see ``Form``.
        strengths: α of every decoder layer, first to last, each in 0..1 and not all 0; None weighs all layers 1.

    Raises:
        OptionError: an unknown form, or strengths outside what is allowed.
    """

    form: Form = "attention"
    strengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise OptionError("unknown form of the map", got=repr(self.form), allowed=", ".join(get_args(Form)))
        if self.strengths is not None and not (
            all(0 <= strength <= 1 for strength in self.strengths) and any(self.strengths)
        ):
            raise OptionError("strengths of the layers", got=self.strengths, allowed="each 0..1, one above 0")

    def weights(self, layers: int) -> NDArray[np.float32]:
        """α of each of ``layers`` layers, float32 [L].

        Raises:
            OptionError: another number of strengths.
        """
        if self.strengths is None:
            return np.ones(layers, np.float32)
        if len(self.strengths) != layers:
            raise OptionError("one strength per decoder layer", got=len(self.strengths), allowed=str(layers))
        return np.asarray(self.strengths, np.float32)


def _per_head(x: Array, heads: int) -> Array:
    """[..., T, D] -> [..., H, T, d]."""
    return np.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def layer_maps(signals: Mapping[str, Array], keys: Array, values: Array, form: Form) -> Array:
    """Maps over the patches, one per layer.

    Args:
        signals: ``cross_attention`` [B, L, H, T, N], ``cross_query`` and ``cross_gradient`` [B, L, T, D].
        keys, values: of the patches [L, N, D].
        form: see ``Form``.

    Returns:
        float32 [B, L, N], not negative; zeros where nothing speaks for the words.
    """
    gradient = signals["cross_gradient"]
    if form == "attention":
        attention = signals["cross_attention"]
        heads = attention.shape[2]
        evidence = matmul(_per_head(gradient, heads), np.swapaxes(_per_head(values, heads), -1, -2))
        result: Array = np.maximum(attention * evidence, 0).sum(axis=(2, 3))
        return result
    evidence = np.maximum(matmul(gradient, np.swapaxes(values, -1, -2)), 0)
    summed: Array = (_spatial_weights(signals["cross_query"], keys) * evidence).sum(axis=2)
    return summed


def _spatial_weights(query: Array, keys: Array) -> Array:
    """λ [B, L, T, N]: cosines of queries [B, L, T, D] and keys [L, N, D], brought to 0..1 over the patches."""
    cosines = matmul(_unit(query), np.swapaxes(_unit(keys), -1, -2))
    low, high = cosines.min(-1, keepdims=True), cosines.max(-1, keepdims=True)
    spread = high - low
    weights: Array = np.divide(cosines - low, spread, out=np.zeros_like(cosines), where=spread > CONSTANT_COSINES)
    return weights


def _unit(x: Array) -> Array:
    length = np.sqrt((x * x).sum(-1, keepdims=True))
    unit: Array = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return unit


def earlier_words(signals: Mapping[str, Array], rows: NDArray[np.intp], strengths: Array) -> Array:
    """How much each word rests on the words before it: relevance propagation through self-attention.

    Chefer, Gur and Wolf, Generic Attention-model Explainability (ICCV 2021): R starts as the identity and every layer
    adds ReLU(A ∇A), mean over heads, times R; here each layer is weighed by its α. The identity is left out of the
    result.

    Args:
        signals: ``self_attention`` and ``self_gradient`` [B, L, H, T, T], the gradient of one word's log-probability
            per row of the batch.
        rows: [B], the place that predicts that word.
        strengths: α of every layer [L].

    Returns:
        float32 [B, T], not negative; zero from the predicted word on.
    """
    heat = np.maximum(signals["self_attention"] * signals["self_gradient"], 0).mean(axis=2)
    length = heat.shape[-1]
    relevance = np.broadcast_to(np.eye(length, dtype=np.float32), heat[:, 0].shape)
    for layer, strength in enumerate(strengths):
        relevance = relevance + strength * (heat[:, layer] @ relevance)
    chosen = np.take_along_axis(relevance, rows[:, None, None], axis=1)[:, 0]
    result: Array = chosen - (np.arange(length) == rows[:, None])
    return np.maximum(result, 0).astype(np.float32)
