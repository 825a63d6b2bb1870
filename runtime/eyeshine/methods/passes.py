"""What a method by passes is: it runs the model many times for each image, rather than read one run's signals.

Such a method gets a ``Subject``, what is explained of one image, and the ``Model``, which runs graphs. It makes its
images one at a time (a generator), so that memory holds one batch of them however many there are, and draws whatever it
draws from a seed of its own: the same call yields the same map, and an image its map in any batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from eyeshine_kernels.products import matmul

__all__ = ["Model", "PassesMethod", "Subject"]

Array = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """What is explained of one image: P targets, each the cosine with a text or a difference of such cosines.

    Attributes:
        pixels: float32 [3, Y, X], the model's input, RGB in 0..1.
        index: the image's place in the call.
        prompts: float32 [J, E], unit vectors of the target's texts.
        weights: float32 [P, J], row p makes target p of the J cosines; None where the targets are the J texts.
    """

    pixels: Array
    index: int
    prompts: Array
    weights: Array | None = None

    @cached_property
    def targets(self) -> NDArray[np.float64]:
        """[P, E]: ``score`` is the dot product with them, so that they are its gradient as well; not of unit length."""
        prompts = self.prompts.astype(np.float64)
        return prompts if self.weights is None else matmul(self.weights.astype(np.float64), prompts)

    def score(self, embeddings: NDArray[Any]) -> NDArray[np.float64]:
        """The explained scores [n, P] of unit embeddings [n, E]; of one embedding [E], scores [P]."""
        scores: NDArray[np.float64] = matmul(embeddings.astype(np.float64), self.targets.T)
        return scores


class Model(Protocol):
    """The model as methods by passes see it.

    Attributes:
        grid: patches (down, across).
        patch: of a patch, (height, width) in pixels. Patches begin at the upper left pixel; what they leave of the
            image below and at the right the model does not see.
        size: of the input, (height, width) in pixels.
        mean: float32 [3], RGB in 0..1, the colour that normalisation takes to 0.
        std: float32 [3], RGB, what normalisation divides by.
        max_batch: images of a full batch, a size that the engine runs.
    """

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def patch(self) -> tuple[int, int]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def mean(self) -> Array: ...

    @property
    def std(self) -> Array: ...

    @property
    def max_batch(self) -> int: ...

    def encode(self, frames: Iterable[Array]) -> Iterator[Array]:
        """Unit embeddings [E] of images [3, Y, X] in 0..1, in their order, a batch behind them.

        A frame is copied at once: it may be written over when the next is asked for.

        Raises:
            EngineError: the engine failed, or an embedding is not finite.
        """
        ...

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a graph that the method names in ``graphs``, for the named outputs.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def inputs(self, graph: str) -> Mapping[str, tuple[int | str, ...]]:
        """The inputs of a graph with their axes; letters are free."""
        ...

    def track(self, steps: Iterable[T], total: int, what: str) -> Iterator[T]:
        """The steps as they are, with a progress bar over ``total`` of them where the caller asked for one."""
        ...

    def note(self, **facts: Any) -> None:
        """Say something of the image that is being explained, for ``Explanation.details``; plain JSON values."""
        ...


class PassesMethod(Protocol):
    """One method by passes: a frozen dataclass of its settings, which check themselves.

    Attributes:
        name: in the registry, in results and on the command line.
        signals: what it reads of the graphs beside embeddings; empty for most.
        graphs: names of the graphs that it runs; a bundle without one of them is refused before the first pass.
        needs: as for any method.
        uses_text: whether its map depends on the text.
        cost: "passes", or "seconds" for an image.
        reference: paper or code it comes from.
    """

    name: ClassVar[str]
    signals: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]]
    uses_text: ClassVar[bool]
    cost: ClassVar[str]
    reference: ClassVar[str]

    @property
    def graphs(self) -> frozenset[str]: ...

    def explain(self, subject: Subject, model: Model) -> NDArray[Any]:
        """Maps [P, h, w] or [P, N], one value per patch, finite; all texts of an image share its passes."""
        ...
