"""Grad-CAM on the last block: its tokens' channels, weighed by their mean gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from eyeshine.checks import check_choice
from eyeshine.methods.base import Array, BlockSignals, need

__all__ = ["Features", "GradCam"]

Features = Literal["normed", "input"]

_SIGNALS: Final[dict[Features, str]] = {"normed": "grad_cam", "input": "grad_cam_input"}


@dataclass(frozen=True)
class GradCam:
    """``ReLU(sum_d w_d F_{i,d})``, w the mean over tokens of dc/dF.

    A convolution has one feature map; of a transformer's tokens it is a matter of convention which are averaged.

    Attributes:
        features: "normed", F the output of the last block's first LayerNorm, w the mean over the patches
            (pytorch-grad-cam's choice for transformers); or "input", F the last block's input, w the mean over all
            tokens (the baseline in Grad-ECLIP's tables).

    Raises:
        OptionError: no such features.
    """

    features: Features = "normed"

    name: ClassVar[str] = "grad_cam"
    needs: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "Selvaraju et al., Grad-CAM, ICCV 2017"

    def __post_init__(self) -> None:
        check_choice("features of Grad-CAM", self.features, get_args(Features))

    @property
    def signals(self) -> frozenset[str]:
        """The map before its ReLU."""
        return frozenset({_SIGNALS[self.features]})

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], non-negative."""
        name = _SIGNALS[self.features]
        return need(getattr(signals, name), name).clip(0)
