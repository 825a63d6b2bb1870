"""FM-G-CAM: Grad-CAM of several texts that compete for every patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eyeshine.methods.base import Array, BlockSignals
from eyeshine.methods.grad_cam import GradCam

__all__ = ["FmGCam"]


@dataclass(frozen=True)
class FmGCam(GradCam):
    """Grad-CAM of all texts of the call; a patch belongs to the text whose map is largest there, and is zero in the
    others; all maps of an image together have length 1 (L2), where there is any evidence.

    The paper fuses the maps of a classifier's best classes; the texts of the call stand for these. A patch where two
    texts are equal goes to the first. With one text it is Grad-CAM of length 1.

    Attributes:
        features: as in ``GradCam``.
    """

    name: ClassVar[str] = "fm_g_cam"
    reference: ClassVar[str] = "Rammuni Silva and Bird, FM-G-CAM, 2023"

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N] in 0..1, of which one at most is not zero at a patch."""
        maps = super().maps(signals, prompts)
        winner = maps.argmax(1)
        for prompt in range(prompts):
            maps[:, prompt] *= winner == prompt
        length = (maps * maps).sum((1, 2)) ** 0.5
        return maps / (length + (length == 0))[:, None, None]
