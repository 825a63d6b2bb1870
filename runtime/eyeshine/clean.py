"""Text cleaning as CLIP was trained with: repair, HTML entities, white space, lower case.

CLIP's tokenizer cleans each caption before it splits it: the repairs of ``ftfy.fix_text``, ``html.unescape`` twice,
one space between words, lower case. This module does the same with the standard library alone, so that a bundle needs
no ``ftfy``. One repair is left out: ftfy's *mojibake* repair, which guesses that a text was decoded with the wrong
encoding ("schÃ¶n" for "schön"). It rests on large statistical tables, and people do not type such text.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

__all__ = ["Cleaning", "clean_canonical", "clean_clip", "clean_lower", "clean_whitespace", "cleaner"]

Cleaning = Literal["clip", "lower", "whitespace", "canonicalize"]
"""``"clip"``: all of CLIP's cleaning. ``"lower"``: white space and lower case only. ``"whitespace"``: as CLIP's, but
capitals stay. ``"canonicalize"``: as CLIP's without punctuation (SigLIP)."""

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SURROGATE = re.compile("[\ud800-\udfff]")

# Latin ligatures and digraphs, and the letters they are made of. NFKC would also turn the long s of ﬅ into s.
_LIGATURES = {
    "Ĳ": "IJ", "ĳ": "ij", "ŉ": "ʼn",
    "Ǆ": "DŽ", "ǅ": "Dž", "ǆ": "dž", "Ǉ": "LJ", "ǈ": "Lj", "ǉ": "lj", "Ǌ": "NJ", "ǋ": "Nj", "ǌ": "nj",
    "Ǳ": "DZ", "ǲ": "Dz", "ǳ": "dz",
    "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st",
}  # fmt: skip
_QUOTES = dict.fromkeys("ʼ‘’‚‛", "'") | dict.fromkeys("“”„‟", '"')
_UNWANTED = [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]


@lru_cache(maxsize=1)
def _character_table() -> dict[int, str]:
    """What each single character becomes: C1 controls, full and half width, ligatures, quotes."""
    table = {ord(char): letters for char, letters in _LIGATURES.items()}
    for code in range(0x80, 0xA0):  # C1 controls, which browsers read as Windows-1252; five have no meaning there
        meant = bytes([code]).decode("windows-1252", errors="ignore")
        table[code] = meant or chr(code)
    for code in range(0xFF01, 0xFFF0):
        table[code] = unicodedata.normalize("NFKC", chr(code))
    table[0x3000] = " "
    straight = str.maketrans(_QUOTES)
    return straight | {code: meant.translate(straight) for code, meant in table.items()}


@lru_cache(maxsize=1)
def _entity_table() -> dict[str, str]:
    """HTML's named entities that end in ";", and the shouted form of the lower-case ones (P&EACUTE;REZ)."""
    import html
    from html.entities import html5

    table = {f"&{name}": char for name, char in html5.items() if name.endswith(";")}
    shouted = {entity.upper(): char.upper() for entity, char in table.items() if entity == entity.lower()}
    return {entity: char for entity, char in shouted.items() if html.unescape(entity) == entity} | table


def _replace_entity(match: re.Match[str]) -> str:
    entity = match.group()
    if not entity.startswith("&#"):
        return _entity_table().get(entity, entity)
    from html import unescape

    char = unescape(entity)
    return entity if ";" in char else char  # only a part of it was a number, or it is a semicolon: leave it


def _repair_line(line: str, *, entities: bool) -> str:
    """Apply every repair to one line until nothing changes (an entity may stand for the "&" of another one).

    Line breaks need no step here: every character that ftfy reads as one is white space, which is collapsed later.
    """
    before = None
    while line != before:
        before = line
        if entities:
            line = _ENTITY.sub(_replace_entity, line)
        line = line.translate(_character_table())
        if _SURROGATE.search(line):  # a pair is the character it encodes, a lone one is U+FFFD
            line = line.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        line = _TERMINAL_ESCAPE.sub("", line).translate(dict.fromkeys(_UNWANTED))
        line = unicodedata.normalize("NFC", line)
    return line


def _repair(text: str) -> str:
    """ftfy's repairs without that of mojibake; entities stay as they are from the first line with a "<" (markup)."""
    lines, entities = [], True
    for line in text.split("\n"):
        entities = entities and "<" not in line
        lines.append(_repair_line(line, entities=entities))
    return "\n".join(lines)


def clean_clip(text: str) -> str:
    """CLIP's cleaning of a caption: repairs, HTML entities, one space between words, lower case.

    Args:
        text: any string; lone surrogates become U+FFFD.

    Returns:
        The cleaned text, equal to open_clip's ``lower`` cleaning unless ftfy would have repaired mojibake in it.
    """
    return clean_whitespace(text).lower()


def clean_whitespace(text: str) -> str:
    """CLIP's cleaning without the lower case: repairs, HTML entities, one space between words."""
    from html import unescape

    return _spaced(unescape(unescape(_repair(text))))


def clean_canonical(text: str) -> str:
    """SigLIP's cleaning: CLIP's, and ASCII punctuation is taken out, "_" as a space."""
    return " ".join(clean_clip(text).replace("_", " ").translate(_PUNCTUATION).split())


def clean_lower(text: str) -> str:
    """One space between words, none at the ends, lower case, lone surrogates as U+FFFD; nothing else is changed."""
    return _spaced(text).lower()


def _spaced(text: str) -> str:
    return " ".join(re.sub("[\ud800-\udfff]", "\ufffd", text).split())


def cleaner(cleaning: Cleaning) -> Callable[[str], str]:
    """The function of a cleaning; ``KeyError`` for an unknown name (callers check theirs first)."""
    known = {
        "clip": clean_clip,
        "lower": clean_lower,
        "whitespace": clean_whitespace,
        "canonicalize": clean_canonical,
    }
    return known[cleaning]
