"""What became of the similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Intervention", "Sweep", "What"]

Array = NDArray[np.float32]
What = Literal["heads", "blocks", "patches"]
"""What a sweep takes away one after the other."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Intervention:
    """Similarities of an image and P texts, before and after a change.

    Attributes:
        texts: the P texts.
        changes: what was changed, one line each.
        before, after: float32 [P], cosines; "before" by the same graph with nothing changed.
        bundle: name of the bundle.
        engine: provider, threads, graph.
        wall_ms: of the whole call.
    """

    texts: tuple[str, ...]
    changes: tuple[str, ...]
    before: Array
    after: Array
    bundle: str
    engine: dict[str, Any]
    wall_ms: float

    @property
    def change(self) -> Array:
        """[P], after - before: below 0 where what was taken away spoke for the text."""
        return self.after - self.before

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bundle": self.bundle,
            "changes": list(self.changes),
            "texts": list(self.texts),
            "before": _rounded(self.before),
            "after": _rounded(self.after),
            "change": _rounded(self.change),
            "wall_ms": round(self.wall_ms, 3),
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Sweep:
    """Similarities where every part is taken away in turn, and nothing else; other attributes as in ``Intervention``.

    Attributes:
        what: which parts.
        after: float32 [..., P] with two axes before the last: [L, H] of heads, [L, 2] of blocks (attention, MLP), or
            [h, w] of patches.
        encoded: forward passes, in images.
    """

    what: What
    texts: tuple[str, ...]
    before: Array
    after: Array
    bundle: str
    engine: dict[str, Any]
    encoded: int
    wall_ms: float

    @property
    def change(self) -> Array:
        """[..., P], after - before."""
        return self.after - self.before

    def strongest(self, prompt: int = 0, count: int = 10) -> list[tuple[tuple[int, int], float]]:
        """The parts whose loss moves a text's similarity most, with the change: (block, head), (block, 0 for attention
        or 1 for MLP), or (row, column) of a patch."""
        change = self.change[..., prompt]
        order = np.argsort(-np.abs(change), axis=None, kind="stable")[:count]
        places = [divmod(int(index), change.shape[1]) for index in order]
        return [(place, float(change[place])) for place in places]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bundle": self.bundle,
            "what": self.what,
            "texts": list(self.texts),
            "before": _rounded(self.before),
            "change": _rounded(self.change),
            "encoded": self.encoded,
            "wall_ms": round(self.wall_ms, 3),
        }


def _rounded(values: Array) -> Any:
    return np.round(values.astype(np.float64), 6).tolist()
