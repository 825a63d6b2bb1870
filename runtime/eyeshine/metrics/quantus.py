"""Maps as Quantus takes them; without Quantus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.explanation import Explanation
from eyeshine.metrics.truth import covered
from eyeshine.upsample import to_image

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["a_batch"]


def a_batch(explainer: Explainer, explanation: Explanation, prompts: int | Sequence[int] = 0) -> NDArray[np.float32]:
    """Attributions for a Quantus metric, beside an ``x_batch`` of the same images at the model's input size.

    The method's own values, interpolated and neither clipped nor normalised: Quantus normalises by itself.

    Args:
        explainer: the one that explained.
        explanation: B images.
        prompts: index of the text, one for all images or one for each; what Quantus calls the target.

    Returns:
        float32 [B, 1, Y, X].

    Raises:
        OptionError: no such prompt, or another number of them than of images.
    """
    count = len(explanation.images)
    chosen = [prompts] * count if isinstance(prompts, int) else list(prompts)
    if len(chosen) != count:
        raise OptionError("one prompt for all images, or one for each", got=len(chosen), allowed=str(count))
    for prompt in chosen:
        if not isinstance(prompt, int | np.integer) or not 0 <= prompt < len(explanation.texts):
            raise OptionError("no such prompt", got=prompt, allowed=f"0..{len(explanation.texts) - 1}")
    return to_image(explanation.maps[np.arange(count), chosen], covered(explainer))[:, None]
