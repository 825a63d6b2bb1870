"""Methods with other settings than their own, from names and values as a command line or a file gives them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from eyeshine.errors import OptionError
from eyeshine.methods import AnyMethod, get_method

__all__ = ["configure", "parse_settings", "read_settings", "settings_of", "with_settings"]

M = TypeVar("M", bound=AnyMethod)


def settings_of(method: AnyMethod) -> dict[str, Any]:
    """The settings of a method by name, with their values; empty for a method without any."""
    holder = _holder(method)
    return {field.name: getattr(holder, field.name) for field in fields(holder)} if is_dataclass(holder) else {}


def configure(name: str, settings: Mapping[str, Any]) -> AnyMethod:
    """The registered method of a name with these settings.

    Raises:
        OptionError: no such method or setting, or a value that it does not take.
    """
    return with_settings(get_method(name), settings)


def with_settings(method: M, settings: Mapping[str, Any]) -> M:
    """A method with these settings.

    Raises:
        OptionError: no such setting, or a value that it does not take.
    """
    if not settings:
        return method
    known = settings_of(method)
    for setting in settings:
        if setting not in known:
            raise OptionError(
                f"method {method.name} has no such setting",
                got=repr(setting),
                allowed=", ".join(known) or "none at all",
            )
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    holder: Any = _holder(method)
    for key, value in values.items():
        if isinstance(known[key], bool) and not isinstance(value, bool):
            raise OptionError(f"{key} is not a truth value", got=repr(value), allowed="True, False")
    changed = replace(holder, **values)
    whole: Any = method
    result: M = changed if holder is method else replace(whole, options=changed)
    return result


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a command line gives them; a value is a number, True, False, None, numbers with commas
    between them, or else a word.

    Raises:
        OptionError: a pair without "=", or a name twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise OptionError("a setting is NAME=VALUE", got=repr(pair))
        if name in settings:
            raise OptionError("a setting is given twice", got=repr(name))
        settings[name] = _value(value.strip())
    return settings


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a JSON file, an object of names and values.

    Raises:
        OptionError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError("settings cannot be read", got=f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise OptionError(
            "settings must be one object", got=f"{path}: {type(found).__name__}", allowed='{"alpha": 0.8}'
        )
    return found


def _holder(method: AnyMethod) -> Any:
    """What holds a method's settings: its options, or the method itself."""
    return getattr(method, "options", method)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
