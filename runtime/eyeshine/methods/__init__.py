"""Attribution methods, one small file each, found in one registry."""

from __future__ import annotations

from typing import Final

from eyeshine.errors import OptionError
from eyeshine.methods.attention import Attention
from eyeshine.methods.base import BlockSignals, Method
from eyeshine.methods.chefer import Chefer
from eyeshine.methods.concept import ConceptAttribution
from eyeshine.methods.grad_eclip import GradEclip

__all__ = ["METHODS", "Attention", "BlockSignals", "Chefer", "ConceptAttribution", "GradEclip", "Method", "get_method"]

METHODS: Final[dict[str, Method]] = {
    method.name: method for method in (GradEclip(), Chefer(), Attention(), ConceptAttribution())
}


def get_method(method: str | Method) -> Method:
    """Return the registered method of a name, or the method itself.

    Raises:
        OptionError: no method of that name.
    """
    if not isinstance(method, str) and not isinstance(method, type) and hasattr(method, "maps"):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise OptionError(
            "unknown method", got=repr(method), allowed=", ".join(METHODS), cure="eyeshine methods lists them"
        )
    return METHODS[method]
