"""A state dictionary, read so that nothing is missing, misshapen or left over."""

from __future__ import annotations

from collections.abc import Mapping

from eyeshine.errors import ExportError
from eyeshine_export.graph.ops import Array

__all__ = ["Reader", "StateDict"]

StateDict = Mapping[str, Array]


class Reader:
    """Takes arrays out of a state dictionary by name, checks their shapes, and knows which ones it took."""

    def __init__(self, state: StateDict, prefix: str) -> None:
        self.state, self.prefix = state, prefix
        self.taken: set[str] = set()

    def _find(self, key: str) -> Array:
        if key not in self.state:
            raise ExportError(
                "checkpoint and configuration disagree: a weight is missing",
                got=f"no {key}",
                cure="name the configuration that this checkpoint was trained with",
            )
        return self.state[key]

    def __call__(self, name: str, *shape: int) -> Array:
        key = f"{self.prefix}{name}"
        array = self._find(key)
        self.taken.add(key)
        if array.shape != shape:
            raise ExportError(
                "checkpoint and configuration disagree: a weight has another shape",
                got=f"{key} {array.shape}",
                allowed=str(shape),
                cure="name the configuration that this checkpoint was trained with",
            )
        return array

    def rows(self, name: str) -> int:
        """Rows of a matrix whose height the configuration leaves open."""
        return int(self._find(f"{self.prefix}{name}").shape[0])

    def finish(self, *elsewhere: str) -> None:
        """Refuse weights that nothing took: they change what the model computes. ``elsewhere``: beginnings of names."""
        for key in self.state:
            if key.startswith(self.prefix) and key not in self.taken and not key.startswith(elsewhere):
                raise ExportError(
                    "checkpoint and configuration disagree: the configuration has no place for a weight",
                    got=f"{key} {self.state[key].shape}",
                    cure="name the configuration that this checkpoint was trained with",
                )

    def has(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.state

    def pair(self, name: str, *shape: int) -> tuple[Array, Array]:
        return self(f"{name}.weight", *shape), self(f"{name}.bias", shape[0])
