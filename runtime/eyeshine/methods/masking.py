"""Images with some of their patches hidden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["patch_frames"]

Array = NDArray[np.float32]


def patch_frames(
    image: Array,
    other: Array,
    kept: Iterable[NDArray[np.bool_]],
    grid: tuple[int, int],
    patch: tuple[int, int],
) -> Iterator[Array]:
    """The image where a patch is kept, the other one where it is not; one frame, written over.

    Args:
        image: [3, Y, X].
        other: [3, Y, X], what stands in hidden patches and where no patch lies.
        kept: [h, w] each.
        grid: patches (down, across).
        patch: of a patch, (height, width) in pixels.

    Yields:
        [3, Y, X].
    """
    (rows, columns), (down, across) = grid, patch
    height, width = rows * down, columns * across
    frame = other.copy()
    shown, new, old = (  # views: splitting axes copies nothing
        part[:, :height, :width].reshape(3, rows, down, columns, across) for part in (frame, image, other)
    )
    for keep in kept:
        np.copyto(shown, old)
        np.copyto(shown, new, where=keep[:, None, :, None])
        yield frame
