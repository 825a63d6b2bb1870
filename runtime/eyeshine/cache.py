"""Where things are kept that only save time: built engines, and which engine passed the numeric gate here."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "digest"]

VARIABLE = "EYESHINE_CACHE"


def cache_folder() -> Path:
    """The folder for files that may be deleted at any time: ``$EYESHINE_CACHE``, or the user's cache folder.

    It need not exist, and need not be writable; who writes there copes with that.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "eyeshine" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "eyeshine"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "eyeshine"


def digest(facts: Mapping[str, Any]) -> str:
    """16 hex digits over facts that JSON can hold, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
