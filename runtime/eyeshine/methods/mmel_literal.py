"""MMEL as its equations are printed, which rank patches as Grad-ECLIP does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice, check_whole
from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals
from eyeshine.methods.mmel import PAPER, Enhanced
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.multiscale import MLP, MultiscaleOptions, SemanticMaps, multiscale

__all__ = ["MmelLiteral", "Transform"]

Transform = Literal["identity", "random"]


@dataclass(frozen=True, kw_only=True)
class MmelLiteral(Enhanced):
    """``E = E_base [1 + alpha sigmoid(sum_s SemanticLevel_s)]``, equations 1 to 9 as printed.

    The gate lies within 1.929..2.071 at B/16 (readings: the cosines are divided by sqrt(D)), so that the map ranks
    patches as Grad-ECLIP does.

    Attributes:
        transform: T of equations 3 and 4, for which the paper neither trains nor prints weights: "identity", or
            "random", drawn as torch's Linear is.
        seed: of the random T, 0..2^32 - 1.

    Raises:
        OptionError: a value outside what is allowed.
    """

    transform: Transform = "identity"
    seed: int = 0

    name: ClassVar[str] = "mmel_literal"
    reference: ClassVar[str] = f"{PAPER}: equations 1 to 9"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("transform", self.transform, get_args(Transform))
        check_whole("seed", self.seed, 0, 2**32 - 1)

    def enhance(self, signals: BlockSignals, prompts: int) -> SemanticMaps[Array]:
        """Maps and the semantics S that they were raised by, [B, P, N] each."""
        features, base = self._features(signals), self.base.maps(signals, prompts)
        return multiscale(
            features, base, grid=signals.grid, layer_weights=self._theta(base), mlp=self._mlp(features),
            options=self._options(), backend=signals.backend,
        )  # fmt: skip

    def _options(self) -> MultiscaleOptions:
        try:
            return MultiscaleOptions(form="literal", scales=self.scales, alpha=self.alpha)
        except KernelError as error:
            raise OptionError("MMEL's settings", got=str(error)) from error

    def _mlp(self, beside: Any) -> MLP[Any] | None:
        """T in the kind of ``beside``, or None."""
        if self.transform == "identity":
            return None
        drawn = _random_mlp(int(beside.shape[-1]), self.seed)
        if isinstance(beside, np.ndarray):
            return drawn
        return MLP(**{name: beside.new_tensor(entry) for name, entry in drawn.named().items()})


@lru_cache(maxsize=4)
def _random_mlp(channels: int, seed: int) -> MLP[Any]:
    """``d -> 2d -> d``, uniform within 1 / sqrt(inputs), weights and biases."""
    random = np.random.default_rng(seed)

    def draw(inputs: int, *shape: int) -> NDArray[np.float32]:
        return random.uniform(-(inputs**-0.5), inputs**-0.5, shape).astype(np.float32)

    hidden = 2 * channels
    return MLP(
        draw(channels, hidden, channels), draw(hidden, channels, hidden),
        first_bias=draw(channels, hidden), second_bias=draw(hidden, channels),
    )  # fmt: skip
