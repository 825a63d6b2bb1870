"""Results of the text side on disk."""

from __future__ import annotations

import json
from pathlib import Path

from eyeshine.errors import OutputError
from eyeshine.render import save_png
from eyeshine.saving import make_folder
from eyeshine.text_side.result import TextExplanation

__all__ = ["save_text_results"]

_HEAD = '<!doctype html>\n<meta charset="utf-8">\n'  # without it browsers take a file's letters for another code


def save_text_results(explanation: TextExplanation, folder: Path, stem: str, image: int = 0) -> list[Path]:
    """Write one image's texts: ``STEM.text.png``, ``STEM.text.html`` (a page) and ``STEM.text.json`` (``record``).

    Returns:
        The files.

    Raises:
        OutputError: a file cannot be written.
    """
    picture, page, record = (make_folder(folder) / f"{stem}.text.{kind}" for kind in ("png", "html", "json"))
    save_png(explanation.picture(image), picture)
    try:
        page.write_text(_HEAD + explanation.html(image), "utf-8")
        record.write_text(json.dumps(explanation.record(image), ensure_ascii=False, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise OutputError("texts cannot be written", got=str(error), cure="name another folder") from error
    return [picture, page, record]
