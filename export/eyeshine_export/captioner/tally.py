"""Means under names, for scores."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

__all__ = ["Tally"]


class Tally:
    """Collects values under names and takes their means."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self._values[name].append(float(value))

    def mean(self, name: str) -> float:
        return float(np.mean(self._values[name]))

    def mean_or_none(self, name: str) -> float | None:
        return self.mean(name) if self._values[name] else None

    def under(self, prefix: str) -> dict[str, float]:
        """Means of all names that begin with ``prefix``, by what follows it."""
        return {name[len(prefix) :]: self.mean(name) for name in self._values if name.startswith(prefix)}

    def balanced(self, name: str) -> float:
        """Mean of the accuracies on what is there and on what is not."""
        return (self.mean(f"{name}, there") + self.mean(f"{name}, absent")) / 2
