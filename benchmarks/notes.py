"""Pages whose tables are made anew, with notes below them that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["NOTES", "write_page"]

NOTES: Final = "<!-- what was seen: written by hand, kept when the tables are made anew -->"


def write_page(path: Path, text: str) -> None:
    """Write what was made, and below the marker what a person has written there."""
    notes = path.read_text("utf-8").partition(NOTES)[2] if path.is_file() else ""
    path.write_text(f"{text}{NOTES}{notes or chr(10)}", "utf-8")
