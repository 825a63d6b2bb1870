"""The sides of ``eyeshine explain``: which methods, what is saved, what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from eyeshine.explanation import Explanation
    from eyeshine.methods import AnyMethod
    from eyeshine.text_side import TextExplanation

    Result: TypeAlias = Explanation | TextExplanation

__all__ = ["configured", "printed", "saved"]


def configured(
    side: str, method: str, text_method: str | None, settings: Mapping[str, Any]
) -> tuple[AnyMethod, AnyMethod | str | None]:
    """The method and that of the text side, with these settings; of both sides each takes the settings that it has.

    Raises:
        OptionError: no such method or setting, or a value that it does not take.
    """
    from eyeshine.methods.configure import configure, settings_of, with_settings
    from eyeshine.text_side import get_text_method

    if side == "text":
        return with_settings(get_text_method(text_method or method), settings), None
    if side != "both":
        return configure(method, settings), text_method
    image, read = configure(method, {}), get_text_method(text_method or method)
    for_text = {name: value for name, value in settings.items() if name in settings_of(read)}
    for_image = {name: value for name, value in settings.items() if name in settings_of(image) or name not in for_text}
    return with_settings(image, for_image), with_settings(read, for_text)


def saved(result: Result, folder: Path, stem: str) -> list[str]:
    """Write what there is of one image; return the files."""
    from eyeshine.explanation import Explanation
    from eyeshine.saving import save_image_results
    from eyeshine.text_side.saving import save_text_results

    files = save_image_results(result, folder, stem) if isinstance(result, Explanation) else []
    texts = result.text_side if isinstance(result, Explanation) else result
    return [str(path) for path in (*files, *(save_text_results(texts, folder, stem) if texts is not None else []))]


def printed(image: str, result: Result, files: list[str]) -> None:
    """Print one image's result: similarities, texts in colour where there is a text side, files."""
    from eyeshine.explanation import Explanation

    texts = result.text_side if isinstance(result, Explanation) else result
    target = f"{result.target}" if isinstance(result, Explanation) else "text side"
    typer.echo(f"{image}: {result.method}, {target}, {result.timings_ms['total']:.1f} ms")
    similarities = result.similarities[0]
    order = sorted(range(len(result.texts)), key=lambda prompt: -similarities[prompt])
    for prompt in order:
        if texts is None:
            typer.echo(f"  {similarities[prompt]:+.3f}  {result.texts[prompt]}")
        else:
            _print_text(texts, prompt)
    for file in files:
        typer.echo(f"  {file}")


def _print_text(texts: TextExplanation, prompt: int) -> None:
    """A text in colour, and below it the shares of its words, which need no colour."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"  {texts.similarities[0, prompt]:+.3f}  "), texts.terminal()[prompt], sep="")
    shares = sorted(texts.words(0, prompt, shares=True), key=lambda word: -abs(word[1]))
    listed = ", ".join(f"{word} {share:.0%}" for word, share in shares if abs(share) >= 0.005)
    typer.echo(f"          {listed or 'no evidence'}")
