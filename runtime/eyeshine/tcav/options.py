"""Which activations a concept is looked for in, and how it is tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from eyeshine.checks import check_choice, check_share, check_whole
from eyeshine.methods.tails import LONGEST

__all__ = ["At", "TcavOptions"]

At = Literal["class", "patches"]


@dataclass(frozen=True)
class TcavOptions:
    """Settings of concept vectors and of TCAV.

    Attributes:
        blocks: that lie above the activations, 1..3: these are what the last ``blocks`` blocks are given.
        at: "class", the class token; "patches", the mean of all patches.
        counterparts: how often a concept is set against other random images, and random images against random ones,
            2..1000; the paper's is 500.
        level: of significance, between 0 and 1.
        tests: hypotheses that are tested together; their level is divided by it (Bonferroni). None takes the texts of
            the call.
        seed: of splits, classifiers and random images.
    """

    blocks: int = 1
    at: At = "class"
    counterparts: int = 20
    level: float = 0.05
    tests: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("blocks", self.blocks, 1, LONGEST)
        check_choice("place of activations", self.at, get_args(At))
        check_whole("counterparts", self.counterparts, 2, 1000)
        check_share("level", self.level)
        check_whole("seed", self.seed, 0, 2**31)
        if self.tests is not None:
            check_whole("tests", self.tests, 1, 1_000_000)
