"""An image in front of a model whose parts can be taken away: the graphs "gates" and "hidden", in batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.engine import Session
from eyeshine.errors import EngineError
from eyeshine.gates import GATES, open_gates
from eyeshine.images import ImageLike, load_image
from eyeshine.request import seen

if TYPE_CHECKING:
    from eyeshine.opened import Opened
    from eyeshine.preprocess import CropBox
    from eyeshine.sessions import Sessions

__all__ = ["Bench"]

Array = NDArray[np.float32]
_SHARED = ("head_values", "text")
"""Inputs without an axis over images."""


class Bench:
    """Runs parts of one bundle's image tower.

    Args:
        explainer: with the bundle, its preprocessing and engine.
        sessions: of the bundle.
        max_batch: most images of one forward pass; None takes what suits the engine.
    """

    def __init__(self, explainer: Opened, sessions: Sessions, max_batch: int | None = 2) -> None:
        self.manifest, self.encoder = explainer.bundle.manifest, explainer.encoder(max_batch)
        self._preprocess, self._options, self._sessions = explainer.preprocess, explainer.options, sessions

    def session(self, graph: str) -> Session:
        """The session of a graph.

        Raises:
            SignalError: the bundle has no such graph; the message names the export command.
        """
        return self._sessions.get(graph)

    def prepare(self, image: ImageLike) -> tuple[Array, CropBox]:
        """The model's input [3, Y, X], and the part of the photo that its patches show."""
        prepared = self._preprocess.prepare(load_image(image))
        return prepared.pixels, seen(prepared.crop, self.manifest)

    def gates(self, count: int) -> dict[str, Array]:
        """Gates for so many images that change nothing."""
        return open_gates(self.session(GATES).input_dims, count)

    def gated(self, images: Array, gates: Mapping[str, Array]) -> Array:
        """Embeddings [n, E] of images [n, 3, Y, X], or of one image [1, 3, Y, X], behind gates [n, ...]."""
        count, size = len(gates["token_gates"]), self.encoder.batch
        parts = []
        for start in range(0, count, size):
            rows = slice(start, min(start + size, count))
            inputs = {name: value if name in _SHARED else value[rows] for name, value in gates.items()}
            part = images[rows] if len(images) == count else np.repeat(images, rows.stop - rows.start, axis=0)
            parts.append(self.run(GATES, {"pixels": part, **inputs}, "embedding"))
        return np.concatenate(parts)

    def hidden(self, pixels: Array, depth: int) -> Array:
        """The tokens [T, D] of the model's input [3, Y, X] before the last ``depth`` blocks."""
        tokens: Array = self.run("hidden", {"pixels": pixels[None]}, "hidden")[0, -depth]
        return tokens

    def tail(self, states: Array, depth: int) -> Array:
        """Embeddings [n, E] of tokens [n, T, D] before the last ``depth`` blocks."""
        return self.run(f"tail_{depth}", {"state": states}, "embedding")

    def run(self, graph: str, inputs: Mapping[str, Array], output: str) -> Array:
        """One output of one pass.

        Raises:
            EngineError: the engine failed, or the output is not finite.
        """
        session = self.session(graph)
        rows = len(next(value for name, value in inputs.items() if name not in _SHARED))
        given = dict(inputs)
        if "text" in session.input_dims:  # of graphs that are not asked about texts here
            shape = (self._options.nearest("P", 1), self.manifest.model.embed_dim)
            given["text"] = np.ones(shape, np.float32)
        values = session.run(self._padded(given, rows), [output]).outputs[output][:rows]
        if not np.isfinite(values).all():
            raise EngineError(f"{output} is not finite", got=graph, cure="eyeshine verify on this provider")
        return values

    def facts(self, graph: str) -> dict[str, Any]:
        """Engine, provider and graph, for results."""
        return {**self._options.metadata(), "provider": self.session(graph).provider, "graph": graph}

    def _padded(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Inputs at a size that the engine runs: the last image is repeated."""
        more = self._options.nearest("B", rows) - rows
        if not more:
            return dict(inputs)
        return {
            name: value if name in _SHARED else np.concatenate([value, np.repeat(value[-1:], more, axis=0)])
            for name, value in inputs.items()
        }
