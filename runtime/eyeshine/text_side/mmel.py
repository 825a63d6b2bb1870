"""MMEL on the text side: scales along the token axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine.methods.mmel import PAPER
from eyeshine.text_side.grad_eclip import TextGradEclip
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.multiscale import MultiscaleOptions, multiscale

__all__ = ["TextMmel", "TextMmelLiteral"]


@dataclass(frozen=True, kw_only=True)
class _Enhanced:
    """What both forms share.

    Attributes:
        layers: how many of the last blocks, of the base map and of the relations; None for all that the bundle
            explains.
        layer_weights: theta of every block, ascending, any sign; all equal (1, the paper's value) where it is None.
        scales: s, 1 to 8 numbers above 0 and up to 1.
        alpha: enhancement strength, 0..100; 0 is the base map.
        spatial: of the base map, ``TextGradEclip``.
    """

    layers: int | None = None
    layer_weights: tuple[float, ...] | None = None
    scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    alpha: float = 2.0
    spatial: bool = True

    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"

    def __post_init__(self) -> None:
        theta = self.layer_weights
        if theta is not None and (
            not isinstance(theta, tuple) or self.layers != len(theta) or not np.isfinite(np.array(theta, float)).all()
        ):
            raise OptionError(
                "layer_weights", got=f"{theta!r} for layers={self.layers}", allowed="None, or one number for each layer"
            )
        _ = self.base
        try:
            _ = self._options()
        except KernelError as error:
            raise OptionError("MMEL's settings", got=str(error)) from error

    @property
    def base(self) -> TextGradEclip:
        """What is raised."""
        return TextGradEclip(layers=self.layers, spatial=self.spatial)

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads, 0 for all there are."""
        return self.base.blocks

    @property
    def signals(self) -> frozenset[str]:
        """What the base reads, and the tokens' queries."""
        return self.base.signals | {"queries"}

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Relevance [P, B, N], non-negative."""
        return multiscale(
            need(signals.queries, "queries"),
            self.base.maps(signals, prompts),
            grid=signals.grid,
            layer_weights=None if self.layer_weights is None else np.array(self.layer_weights, np.float32),
            options=self._options(),
        ).maps

    def _options(self) -> MultiscaleOptions:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TextMmel(_Enhanced):
    """``E = E_base [1 + alpha sigmoid(beta S)] + rho alpha max(E_base) minmax(S)`` over the tokens of a text.

    S spreads relevance along relations between tokens, ``softmax(cos / temperature)`` of their queries, at three
    resolutions of the token axis: a scale s takes ``ceil(s N)`` neighbouring groups of the N tokens. The paper gives
    the text no scales of its own; these are the image side's on a grid of one row.

    Attributes:
        temperature: tau of the relations' softmax, .02..10.
        beta: factor of S inside the sigmoid, 0..100.
        rho: share of alpha max(E_base) that S adds of its own, 0..1; 0 is the paper's form.

    Raises:
        OptionError: a value outside what is allowed.
    """

    temperature: float = 0.1
    beta: float = 2.0
    rho: float = 0.0

    name: ClassVar[str] = "mmel"
    reference: ClassVar[str] = f"{PAPER}: sections 3.2 to 3.4, as resolutions of the token axis"

    def _options(self) -> MultiscaleOptions:
        return MultiscaleOptions(
            scales=self.scales, temperature=self.temperature, alpha=self.alpha, beta=self.beta, rho=self.rho
        )


@dataclass(frozen=True, kw_only=True)
class TextMmelLiteral(_Enhanced):
    """``E = E_base [1 + alpha sigmoid(sum_s SemanticLevel_s)]``, equations 1 to 9 as printed, T the identity.

    It ranks tokens as Grad-ECLIP does but for near ties: the gate hardly varies.

    Raises:
        OptionError: a value outside what is allowed.
    """

    name: ClassVar[str] = "mmel_literal"
    reference: ClassVar[str] = f"{PAPER}: equations 1 to 9, on tokens"

    def _options(self) -> MultiscaleOptions:
        return MultiscaleOptions(form="literal", scales=self.scales, alpha=self.alpha)
