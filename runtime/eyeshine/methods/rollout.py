"""Attention rollout: attention of all blocks, multiplied up to the class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from eyeshine.checks import check_whole
from eyeshine.errors import OptionError
from eyeshine.methods.base import Array, BlockSignals, for_all_prompts, need

__all__ = ["Rollout", "from_block"]


@dataclass(frozen=True)
class Rollout:
    """The class row of ``Â_L ... Â_s``, ``Â = (mean_h A_h + I) / 2``: where what the class token holds came from, if
    every block did nothing but attend and add. The same map for every prompt.

    Attributes:
        start_layer: s, the lowest block of the product; 0 is the first, -1 the last. 0 is the paper's; the evaluation
            code of Chefer et al. starts at 1.

    Raises:
        OptionError: no whole number of -64..63; by ``maps``, a block that the tower does not have.
    """

    start_layer: int = 0

    name: ClassVar[str] = "rollout"
    signals: ClassVar[frozenset[str]] = frozenset({"rollout"})
    needs: ClassVar[frozenset[str]] = frozenset()
    blocks: ClassVar[int] = 1
    uses_text: ClassVar[bool] = False
    cost: ClassVar[str] = "graph"
    reference: ClassVar[str] = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3"

    def __post_init__(self) -> None:
        check_whole("start_layer", self.start_layer, -64, 63)

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N], positive, summing to at most 1."""
        return for_all_prompts(from_block(need(signals.rollout, "rollout"), self.start_layer), prompts)


def from_block(rows: Any, start: int) -> Any:
    """Of rows [..., S, N], one for every block that a product starts at, a copy of the one of ``start``: [..., N].

    A view would be a map that changes: an engine may write its next run's outputs where the rows are.

    Raises:
        OptionError: a block that the tower does not have.
    """
    depth = rows.shape[-2]
    if not -depth <= start < depth:
        raise OptionError("the tower has no such block", got=f"start_layer {start}", allowed=f"{-depth}..{depth - 1}")
    row = rows[..., start, :]
    return row.copy() if isinstance(row, np.ndarray) else row.clone()
