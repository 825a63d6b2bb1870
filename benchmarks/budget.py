"""A limit of time that a run keeps by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

__all__ = ["Budget"]


@dataclass
class Budget:
    """Seconds from its making on.

    Attributes:
        total_s: in all.
        clock: seconds.
    """

    total_s: float
    clock: Callable[[], float] = perf_counter
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def left_s(self) -> float:
        """Below 0 where it is overdrawn."""
        return self.total_s - (self.clock() - self._began)

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long fits."""
        return seconds <= self.left_s
