"""The text side: which tokens and words of a text make its cosine with an image."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, cast, get_args

from eyeshine.checks import check_choice
from eyeshine.errors import OptionError
from eyeshine.methods import AnyMethod
from eyeshine.methods.attention import Attention
from eyeshine.methods.chefer import Chefer
from eyeshine.text_side.base import READ, TextMethod
from eyeshine.text_side.grad_eclip import TextGradEclip
from eyeshine.text_side.mmel import TextMmel, TextMmelLiteral
from eyeshine.text_side.result import TextExplanation
from eyeshine.text_side.tails import TEXT_TAILS, by_tails

__all__ = [
    "TEXT_METHODS",
    "Side",
    "TextExplanation",
    "TextGradEclip",
    "TextMethod",
    "TextMmel",
    "TextMmelLiteral",
    "choose_text_method",
    "get_text_method",
]

Side: TypeAlias = Literal["image", "text", "both"]

TEXT_METHODS: Final[dict[str, TextMethod]] = {
    **{method.name: method for method in (TextGradEclip(), Chefer(), Attention(), TextMmel(), TextMmelLiteral())},
    **cast(dict[str, TextMethod], TEXT_TAILS),
}
"""Methods of the text side by name. Chefer's method, attention, NIB and M2IB are those of the image side."""


def get_text_method(method: str | AnyMethod) -> TextMethod:
    """The method of the text side of a name, or the method itself where it reads what the text side has, or runs it.

    Raises:
        OptionError: no such method on the text side, or one of the image side alone.
    """
    if by_tails(method):
        return cast(TextMethod, method)
    reads = not isinstance(method, str | type) and hasattr(method, "maps")
    if reads and not method.needs and method.signals <= READ.keys():  # type: ignore[union-attr]
        return cast(TextMethod, method)
    if not isinstance(method, str) or method not in TEXT_METHODS:
        raise OptionError(
            "no such method on the text side", got=repr(method), allowed=", ".join(TEXT_METHODS),
            cure="text_method names another one for the text side",
        )  # fmt: skip
    return TEXT_METHODS[method]


def choose_text_method(
    side: Side, method: str | AnyMethod, text_method: str | AnyMethod | None, against: object
) -> TextMethod:
    """The method of the text side that a call of side "text" or "both" asks for.

    Raises:
        OptionError: another side, a method that the text side does not have, or a contrast: the text side explains the
            cosine of one text.
    """
    check_choice("side", side, get_args(Side))
    if side == "image":
        raise OptionError("text_method is for the text side", got=repr(text_method), cure="side='text' or 'both'")
    if against is not None:
        raise OptionError(
            "the text side explains the cosine of an image with a text, not with a text rather than others",
            got="against", cure="leave against out, or side='image'",
        )  # fmt: skip
    by_name = method if side == "text" or isinstance(method, str) else method.name
    return get_text_method(by_name if text_method is None else text_method)
