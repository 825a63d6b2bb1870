"""The groups of graphs that a bundle can hold, in one registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eyeshine.errors import OptionError
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.groups.deep import DEEP
from eyeshine_export.groups.gates import GATES
from eyeshine_export.groups.gradcam import GRADCAM
from eyeshine_export.groups.hidden import HIDDEN
from eyeshine_export.groups.legrad import LEGRAD
from eyeshine_export.groups.lrp import LRP
from eyeshine_export.groups.pixels import PIXELS
from eyeshine_export.groups.plain import PLAIN
from eyeshine_export.groups.queries import QUERIES
from eyeshine_export.groups.relevance import RELEVANCE
from eyeshine_export.groups.rollout import ROLLOUT
from eyeshine_export.groups.single_head import SINGLE_HEAD
from eyeshine_export.groups.sizes import SIZES
from eyeshine_export.groups.surgery import SURGERY
from eyeshine_export.groups.words import WORDS

__all__ = ["ALL", "GROUPS", "Built", "Case", "Group", "Parts", "choose_groups"]

GROUPS: Final[dict[str, Group]] = {
    group.name: group
    for group in (
        PLAIN,
        DEEP,
        QUERIES,
        SINGLE_HEAD,
        HIDDEN,
        WORDS,
        ROLLOUT,
        RELEVANCE,
        LEGRAD,
        GRADCAM,
        GATES,
        SURGERY,
        PIXELS,
        LRP,
        SIZES,
    )
}
ALL: Final = "all"


def choose_groups(names: Sequence[str]) -> tuple[Group, ...]:
    """Groups by name, in the registry's order; every bundle has "plain".

    Raises:
        OptionError: no such group.
    """
    for name in names:
        if name != ALL and name not in GROUPS:
            known = ", ".join((*GROUPS, ALL))
            raise OptionError("no such group of signals", got=repr(name), allowed=known)
    return tuple(group for name, group in GROUPS.items() if name == PLAIN.name or name in names or ALL in names)
