"""Many images through the model: in batches, with bounded memory, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.engine import EngineOptions, Session
from eyeshine.engine.session import Dims
from eyeshine.errors import EngineError, OptionError
from eyeshine.sessions import Sessions

__all__ = ["BundleModel", "Encoder", "default_batch"]

Array = NDArray[np.float32]
T = TypeVar("T")
_MOST = 4096


def default_batch(options: EngineOptions) -> int:
    """Images of a forward pass where nobody says how many: 32, or 8 on a CPU.

    There larger batches fall out of the caches: an image takes 9.4 ms of CPU time in a batch of 32 and 7.8 in one of 8
    (roads), 53 and 49 ms (B/32).
    """
    return 8 if options.device_type == "cpu" else 32


class Encoder:
    """Encodes a stream of images in batches.

    Args:
        session: of a graph from ``pixels`` to ``embedding``.
        options: of its engine.
        max_batch: most images of one forward pass, 1..4096; the engine's nearest size is taken.

    Attributes:
        size: (height, width) of the images in pixels.
        batch: images of a full batch.
        encoded: images so far.
        facts: engine, provider and graph.

    Raises:
        OptionError: ``max_batch`` outside its range.
    """

    def __init__(self, session: Session, options: EngineOptions, max_batch: int) -> None:
        if not isinstance(max_batch, int) or isinstance(max_batch, bool) or not 1 <= max_batch <= _MOST:
            raise OptionError("max_batch is a number of images", got=repr(max_batch), allowed=f"1..{_MOST}")
        self._session, self._options = session, options
        self.size = cast(tuple[int, int], tuple(session.input_dims["pixels"][2:]))
        self.batch, self.encoded = options.nearest("B", max_batch), 0
        self.facts = {**options.metadata(), "provider": session.provider, "graph": "encode"}

    def stream(self, frames: Iterable[Array]) -> Iterator[Array]:
        """Unit embeddings [E] of images [3, Y, X], in their order, a batch behind them.

        Raises:
            EngineError: the engine failed, or an embedding is not finite.
        """
        # One buffer for all batches: a frame is copied into it at once and may be written over after that.
        buffer, filled = np.zeros((self.batch, 3, *self.size), np.float32), 0
        for frame in frames:
            buffer[filled] = frame
            filled += 1
            if filled == self.batch:
                yield from self._run(buffer, filled)
                filled = 0
        if filled:
            yield from self._run(buffer[: self._options.nearest("B", filled)], filled)

    def _run(self, buffer: Array, filled: int) -> Array:
        """Embeddings of the first ``filled`` images; the rest pads to a size that the engine runs."""
        vectors = self._session.run({"pixels": buffer}, ["embedding"]).outputs["embedding"][:filled]
        if not np.isfinite(vectors).all():
            raise EngineError("an embedding is not finite", got="encode", cure="eyeshine verify on this provider")
        self.encoded += filled
        return vectors


class BundleModel:
    """A bundle on an engine as methods by passes see it, see ``methods.passes.Model``.

    Args:
        bundle: an opened bundle.
        sessions: of the bundle.
        encoder: of its images.
        progress: draw progress bars on stderr.

    Attributes:
        notes: what the method said of each image, by the image's place in the call.
    """

    def __init__(self, bundle: Bundle, sessions: Sessions, encoder: Encoder, *, progress: bool = False) -> None:
        model = bundle.manifest.model
        self.grid, self.patch, self.size = bundle.manifest.grid, model.patch_size, encoder.size
        self.mean, self.std = (np.array(colour, np.float32) for colour in (model.mean, model.std))
        self.max_batch = encoder.batch
        self.notes: list[dict[str, Any]] = []
        self._sessions, self._encoder, self._progress = sessions, encoder, progress

    def encode(self, frames: Iterable[Array]) -> Iterator[Array]:
        """Unit embeddings of images, see ``Encoder.stream``."""
        return self._encoder.stream(frames)

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, Array]:
        """Run another graph of the bundle.

        Raises:
            SignalError: the bundle has no such graph.
            EngineError: the engine failed.
        """
        return self._sessions.get(graph).run(inputs, outputs).outputs

    def inputs(self, graph: str) -> Mapping[str, Dims]:
        """The inputs of a graph with their axes; letters are free."""
        return self._sessions.get(graph).input_dims

    def track(self, steps: Iterable[T], total: int, what: str) -> Iterator[T]:
        """The steps, with a progress bar on stderr where one was asked for and it is a terminal."""
        if not self._progress:
            yield from steps
            return
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            yield from bar.track(steps, total=total, description=what)

    def begin(self) -> None:
        """The next image: what is noted from now on is said of it."""
        self.notes.append({})

    def note(self, **facts: Any) -> None:
        """Keep what the method says of the image that is being explained."""
        self.notes[-1].update(facts)
