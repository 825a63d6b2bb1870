"""Concepts as they are written in texts: with or without an article, in any case."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["noun", "with_article"]

_ARTICLE: Final = re.compile(r"(an?|the)\s+(?=\S)", re.IGNORECASE)


def noun(concept: str) -> str:
    """The concept in lower case, without article and spaces around it: "A Vehicle" gives "vehicle"."""
    stripped = concept.strip()
    found = _ARTICLE.match(stripped)
    return " ".join(stripped[found.end() if found else 0 :].lower().split())


def with_article(concept: str, terms: Iterable[str]) -> list[str]:
    """The terms with the article that the concept has: "a vehicle" makes "ambulance" "an ambulance"."""
    found = _ARTICLE.match(concept.strip())
    if found is None:
        return list(terms)
    if found[1].lower() == "the":
        return [f"the {term}" for term in terms]
    return [f"{'an' if term[0] in 'aeiou' else 'a'} {term}" for term in terms]
