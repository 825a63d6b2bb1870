"""MMEL: Grad-ECLIP's map, raised where patches relate to relevant patches, by what its text says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np

from eyeshine.checks import check_choice
from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, check_blocks, need
from eyeshine.methods.grad_eclip import GradEclip, Similarity
from eyeshine.methods.scene_complexity import chosen_scales
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.multiscale import MultiscaleOptions, SemanticMaps, multiscale

__all__ = ["PAPER", "Enhanced", "Features", "Mmel"]

Features = Literal["queries", "keys"]

PAPER: Final = "Imran and Lee, Multi-Modal Interpretability for Enhanced Localization in Vision-Language Models, 2025"


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """What both forms share: the base map, the blocks, the patches' features.

    Attributes:
        layers: how many of the last blocks, 1..64, of the base map and of the relations.
        features: what relations are taken of: the patches' "queries" (MMEL, section 3.3; group "queries" of a bundle)
            or their "keys", which every bundle has.
        layer_weights: theta of every block, ascending, any sign; all equal (1, the paper's value) where it is None.
        scales: s, 1 to 8 numbers above 0 and up to 1.
        alpha: enhancement strength, 0..100; 0 is the base map.
        spatial, similarity: of the base map, ``GradEclip``.
    """

    layers: int = 4
    features: Features = "keys"
    layer_weights: tuple[float, ...] | None = None
    scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    alpha: float = 2.0
    spatial: bool = True
    similarity: Similarity = "class"

    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"

    def __post_init__(self) -> None:
        check_blocks("layers", self.layers)
        check_choice("features", self.features, get_args(Features))
        theta = self.layer_weights
        fits = theta is None or (isinstance(theta, tuple) and len(theta) == self.layers and all(map(_real, theta)))
        if not fits:
            allowed = f"None, or a tuple of {self.layers} finite numbers, one for each block"
            raise OptionError("layer_weights", got=repr(theta), allowed=allowed)
        _ = self.base, self._options()

    @property
    def base(self) -> GradEclip:
        """The map that is raised."""
        return GradEclip(spatial=self.spatial, layers=self.layers, similarity=self.similarity)

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads."""
        return self.layers

    @property
    def signals(self) -> frozenset[str]:
        """What the base map reads, and the features."""
        return self.base.signals | {self.features}

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        return self.enhance(signals, prompts).maps

    def enhance(self, signals: BlockSignals, prompts: int) -> SemanticMaps[Array]:
        """Maps and the semantics S that they were raised by, [B, P, N] each."""
        raise NotImplementedError

    def _options(self) -> MultiscaleOptions:
        raise NotImplementedError

    def _features(self, signals: BlockSignals) -> Array:
        """[B, K, N, D]."""
        if self.features == "queries":
            return need(signals.queries, "queries")
        patches = need(signals.keys, "keys")[:, :, 1:]
        return patches if isinstance(patches, np.ndarray) else patches.contiguous()

    def _theta(self, beside: Any) -> Any:
        """[K], of the kind of ``beside``, or None."""
        if self.layer_weights is None:
            return None
        theta = np.array(self.layer_weights, np.float32)
        return theta if isinstance(beside, np.ndarray) else beside.new_tensor(theta)


@dataclass(frozen=True, kw_only=True)
class Mmel(Enhanced):
    """``E = E_base [1 + alpha sigmoid(beta S)] + rho alpha max(E_base) minmax(S)``, E_base Grad-ECLIP at these blocks.

    S spreads relevance along relations between patches, ``softmax(cos / temperature)``, at three resolutions of the
    patch grid, z-scored and averaged over scales and blocks: our reading of what the paper's text says. Its equations,
    where a scale multiplies features that are then normalised, are ``MmelLiteral``.

    Attributes:
        temperature: tau of the relations' softmax, .02..10.
        beta: factor of S inside the sigmoid, 0..100.
        rho: share of alpha max(E_base) that S adds of its own, 0..1: lights up patches without evidence; 0 is the
            paper's form.
        select_scales: "all", or "complexity": of each image those that its scene leaves room for
            (``scene_complexity``; ours, of the paper's future work). It waits for a GPU.

    Raises:
        OptionError: a value outside what is allowed.
    """

    temperature: float = 0.1
    beta: float = 2.0
    rho: float = 0.0
    select_scales: Literal["all", "complexity"] = "all"

    name: ClassVar[str] = "mmel"
    reference: ClassVar[str] = f"{PAPER}: sections 3.3 and 3.4, as resolutions"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("select_scales", self.select_scales, ("all", "complexity"))

    def enhance(self, signals: BlockSignals, prompts: int) -> SemanticMaps[Array]:
        """Maps and the semantics S that they were raised by, [B, P, N] each."""
        features, base = self._features(signals), self.base.maps(signals, prompts)
        shared: dict[str, Any] = {
            "grid": signals.grid, "layer_weights": self._theta(base), "backend": signals.backend
        }  # fmt: skip
        if self.select_scales == "all":
            return multiscale(features, base, options=self._options(), **shared)
        parts = [
            multiscale(features[b : b + 1], base[b : b + 1], options=self._options(scales), **shared)
            for b, scales in enumerate(chosen_scales(features, self.scales, signals.grid))
        ]
        return SemanticMaps(_joined([part.maps for part in parts]), _joined([part.semantics for part in parts]))

    def _options(self, scales: tuple[float, ...] | None = None) -> MultiscaleOptions:
        try:
            return MultiscaleOptions(
                scales=self.scales if scales is None else scales,
                temperature=self.temperature, alpha=self.alpha, beta=self.beta, rho=self.rho,
            )  # fmt: skip
        except KernelError as error:
            raise OptionError("MMEL's settings", got=str(error)) from error


def _real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays [1, P, N] as [B, P, N], of their kind."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    out = parts[0].new_empty((len(parts), *parts[0].shape[1:]))
    for row, part in zip(out, parts, strict=True):
        row.copy_(part[0])
    return out
