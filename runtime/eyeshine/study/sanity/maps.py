"""What the checks share: the samples, and the maps of several methods for one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_whole
from eyeshine.datasets import Dataset
from eyeshine.errors import EngineError, OptionError
from eyeshine.methods import AnyMethod
from eyeshine.study.run import check_graphs

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Found", "Opened", "Row", "Subjects", "check_seeds"]

Row = dict[str, Any]
"""One comparison of two maps: what was compared, plain values by name; None where a value is not defined."""

Array = NDArray[np.float32]
Found: TypeAlias = tuple[Array, Array] | str
"""Maps [P, h, w] and cosines [P] of a method; or what was wrong, where the engine or a map failed."""


@dataclass(frozen=True, eq=False)
class Opened:
    """One image and its texts.

    Attributes:
        key: of the sample.
        image: uint8 [H, W, 3].
        texts: P of them.
    """

    key: str
    image: NDArray[np.uint8]
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """What is checked on what.

    Attributes:
        dataset: the samples; every text of each is explained.
        methods: by the names that they get in results.
        limit: the first so many samples.
        max_batch: most images of one forward pass of a method by passes.
        truncate: cut texts that are longer than the context.

    Raises:
        OptionError: no method, or a limit outside 1..100,000.
    """

    dataset: Dataset
    methods: Mapping[str, AnyMethod] = field(hash=False)
    limit: int = 20
    max_batch: int = 32
    truncate: bool = False

    def __post_init__(self) -> None:
        check_whole("limit", self.limit, 1, 100_000)
        if not self.methods:
            raise OptionError("a check without a method", cure="--method NAME, eyeshine methods lists them")

    def check(self, explainer: Explainer) -> None:
        """Raise SignalError where the bundle lacks graphs of a method, before anything is run."""
        check_graphs(self.methods.values(), explainer.bundle)

    def opened(self) -> Iterator[Opened]:
        """The samples, read.

        Raises:
            ImageError: a sample that cannot be read.
        """
        for sample in islice(self.dataset.samples(), self.limit):
            content = sample.open()
            yield Opened(sample.key, content.image, content.texts)

    def maps(self, explainer: Explainer, of: Opened) -> dict[str, Found]:
        """What every method makes of an image."""
        found: dict[str, Found] = {}
        for name, method in self.methods.items():
            try:
                result = explainer.explain(
                    of.image, of.texts, method=method, truncate=self.truncate, max_batch=self.max_batch
                )
            except EngineError as error:
                found[name] = str(error)
                continue
            found[name] = result.maps[0], result.similarities[0]
        return found


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raise OptionError unless seeds are different whole numbers from 0 on."""
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise OptionError("seeds are different whole numbers", got=seeds, allowed="one or more, from 0 on")
