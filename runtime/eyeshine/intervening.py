"""The facade's interventions: parts of the model or of the image taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.images import ImageLike
from eyeshine.opened import Opened

if TYPE_CHECKING:
    from eyeshine.interventions import Intervention, Sweep

__all__ = ["Intervening"]

Array = NDArray[np.float32]


class Intervening(Opened):
    """An open bundle whose parts can be taken away."""

    def intervene(
        self, image: ImageLike, texts: Sequence[str], *, truncate: bool = False, **changes: Any
    ) -> Intervention:
        """Change a part of the model or of the image, and compare the similarities with those of what was there.

        Args:
            image: one image.
            texts: P texts.
            truncate: accept texts that are longer than the context and cut them.
            changes: what is changed: heads, blocks, head_values, tokens, fill, region, by, depth; see
                ``interventions.Changes``.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used.
            SignalError: the bundle lacks the graphs that it takes: of the group "gates" for heads, blocks and removed
                patches, of "hidden" for regions; filled patches need neither.
            EngineError: the engine is refused or failed.
        """
        from eyeshine.interventions import Changes, intervene

        return intervene(self, self._sessions, image, texts, Changes(**changes), truncate=truncate)

    def ablate_each(
        self,
        image: ImageLike,
        texts: Sequence[str],
        what: Literal["heads", "blocks", "patches"] = "heads",
        *,
        head_values: ArrayLike | None = None,
        max_batch: int | None = None,
        truncate: bool = False,
    ) -> Sweep:
        """The similarities without each head, without each block's attention and MLP, or without each patch.

        Args:
            image: one image.
            texts: P texts.
            what: what is taken away, one after the other.
            head_values: [L, D], what stands in place of an ablated head, see ``head_means``; zeros by default.
            max_batch: most images of one forward pass, as in ``explain``.
            truncate: accept texts that are longer than the context and cut them.

        Raises:
            As ``intervene``; the bundle needs the group "gates".
        """
        from eyeshine.interventions import ablate_each

        return ablate_each(
            self, self._sessions, image, texts, what, head_values=head_values, max_batch=max_batch, truncate=truncate
        )

    def head_means(self, images: Sequence[ImageLike], *, max_batch: int | None = None) -> Array:
        """What every head mixes before the output projection, mean over tokens and images: [L, D], D all heads'.

        For mean ablation: an ablated head then writes what it writes on average, rather than nothing.

        Raises:
            ImageError, OptionError: no image, or one that cannot be used.
            SignalError: the bundle lacks the group "gates".
        """
        from eyeshine.interventions import head_means

        return head_means(self, self._sessions, images, max_batch)
