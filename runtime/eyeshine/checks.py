"""What options ask of their values."""

from __future__ import annotations

from collections.abc import Sequence

from eyeshine.errors import OptionError

__all__ = ["check_choice", "check_share", "check_truth", "check_whole"]


def check_choice(what: str, value: object, allowed: Sequence[object]) -> None:
    """Raise OptionError where an option is none of ``allowed``."""
    if value not in allowed:
        raise OptionError(f"unknown {what}", got=repr(value), allowed=", ".join(map(str, allowed)))


def check_whole(what: str, value: object, low: int, high: int) -> None:
    """Raise OptionError where an option is not a whole number in low..high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionError(f"{what} is a whole number", got=repr(value), allowed=f"{low}..{high}")


def check_share(what: str, value: object) -> None:
    """Raise OptionError where an option is not a number between 0 and 1, both excluded."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise OptionError(f"{what} is a share", got=repr(value), allowed="0..1, both excluded")


def check_truth(what: str, value: object) -> None:
    """Raise OptionError where an option is not a truth value."""
    if not isinstance(value, bool):
        raise OptionError(f"{what} is a truth value", got=repr(value), allowed="True, False")
