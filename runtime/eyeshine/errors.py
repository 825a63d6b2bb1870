"""The error tree. Every message says what went wrong, what was got, what is allowed and what cures it.

EyeshineError
├── InputError            something the caller passed in
│   ├── ImageError        not an image, truncated, empty, too large
│   ├── TextError         no text, blank text, text longer than the context
│   └── OptionError       an option outside its range, an unknown method or target
├── BundleError           a bundle that is missing, damaged, or of another version
│   └── SignalError       a bundle that lacks the signals a method needs
├── EngineError           the inference engine refused or failed
├── ResponderError        whoever was asked about an image cannot be reached, or answers something else
├── OutputError           a result that cannot be written
└── ExportError           a checkpoint that cannot be exported
    ├── ExportUsageError  what was asked for does not exist or is not clear; an OptionError as well
    └── UnsupportedError  a model family or feature that is not supported (yet), named
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "EngineError",
    "ExportError",
    "ExportUsageError",
    "EyeshineError",
    "FallbackWarning",
    "ImageError",
    "InputError",
    "OptionError",
    "OutputError",
    "ResponderError",
    "SignalError",
    "TextError",
    "UnknownWordsWarning",
    "UnsupportedError",
]


class EyeshineError(Exception):
    """Root of every error that eyeshine raises on purpose.

    Args:
        what: what went wrong, one clause.
        got: what was found.
        allowed: what would have been accepted.
        cure: what the user can do.
    """

    def __init__(self, what: str, *, got: object = None, allowed: str | None = None, cure: str | None = None) -> None:
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        if cure is not None:
            parts.append(f"cure: {cure}")
        super().__init__("; ".join(parts))
        self.what, self.got, self.allowed, self.cure = what, got, allowed, cure


class InputError(EyeshineError):
    """Something the caller passed in cannot be used."""


class ImageError(InputError):
    """An image that cannot be read or explained."""


class TextError(InputError):
    """A text, or a list of texts, that cannot be encoded."""


class OptionError(InputError):
    """An option outside what is allowed."""


class BundleError(EyeshineError):
    """A bundle that is missing, damaged, or of another schema version."""


class SignalError(BundleError):
    """A bundle that lacks the signals a method needs."""


class EngineError(EyeshineError):
    """The inference engine refused a graph or failed to run it."""


class ResponderError(EyeshineError):
    """A responder that cannot be reached, refuses, does not answer in time, or answers something else."""


class OutputError(EyeshineError):
    """A result that cannot be written."""


class ExportError(EyeshineError):
    """A checkpoint that cannot be exported."""


class ExportUsageError(ExportError, OptionError):
    """No such model or tag, or weights that are named twice or not at all."""


class UnsupportedError(ExportError):
    """A model family or feature that is not supported yet; the message names it."""


class UnknownWordsWarning(UserWarning):
    """A prompt uses words that the bundle's model never saw in training."""


class FallbackWarning(UserWarning):
    """The provider that was asked for is not there, and another that the caller named took its place."""
