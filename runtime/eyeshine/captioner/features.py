"""What the captioner sees of an image: the keys and values of the tower's last block, one row per patch."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.engine import Session

__all__ = ["SIGNALS", "patch_features", "tower_graph"]

SIGNALS: Final = ("keys", "values")


def tower_graph(bundle: Bundle) -> str:
    """Name of the tower's graph that yields the features.

    Raises:
        SignalError: the bundle has none.
    """
    return bundle.cheapest(frozenset(SIGNALS))


def patch_features(session: Session, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keys and values of the last block at every patch, side by side.

    Both are linear in the normalised residual stream that the block reads, together of full rank in the embedded model,
    so nothing of it is lost. The graph that explains yields them, so captions need no second copy of the tower.

    Args:
        session: runs ``tower_graph``.
        pixels: float32 [B, 3, H, W], RGB in 0..1.

    Returns:
        float32 [B, N, 2D]; the class token is left out.
    """
    inputs: dict[str, NDArray[np.generic]] = {"pixels": pixels}
    if "text" in session.input_dims:  # what the graph explains; neither keys nor values depend on it
        inputs["text"] = np.ones((1, int(session.input_dims["text"][1])), np.float32)
    outputs = session.run(inputs, list(SIGNALS)).outputs
    return np.concatenate([outputs[name][:, -1, 1:] for name in SIGNALS], axis=-1)
