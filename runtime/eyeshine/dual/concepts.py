"""Concept words of a prompt or an answer: noun phrases by a closed list of the words that are none.

A tagger would be a model of its own, with weights and a licence. English keeps its function words in a closed class, so
that what stands between them is mostly a noun phrase: "is there a red car on the road?" leaves "red car" and "road".
Verbs are open-class; common ones are listed, others betray themselves by their endings. What is not English, or a verb
that is neither, comes out as a concept that the model finds nowhere, and is named in the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from eyeshine.dual.words import (
    COLOURS,
    ED_NOUNS,
    EMPTY,
    FUNCTION,
    ING_NOUNS,
    LY_NOUNS,
    QUALITIES,
    SCENERY,
    VERBS,
    WITHOUT_ARTICLE,
)
from eyeshine.responder.concepts import with_article
from eyeshine.texts import check_texts

__all__ = ["Concept", "concept_of", "extract_concepts", "subjects"]

_WORD: Final = re.compile(r"[^\W\d_][\w'’-]*|[.,;:?!()]")

_NEGATIONS: Final = frozenset({"no", "without"})
_STOP_NOUNS: Final = frozenset({"stop sign", "stop signs", "stop light", "stop lights"})


@dataclass(frozen=True)
class Concept:
    """What a noun phrase names.

    Attributes:
        phrase: in lower case, without its article: "red car".
        text: as it is explained: "a red car"; plurals and masses without an article.
        scenery: names the whole scene rather than something in it: "street", "snow".
    """

    phrase: str
    text: str
    scenery: bool = False

    @property
    def head(self) -> str:
        """The noun, without what stands before it and after it."""
        return _head(self.phrase)

    @property
    def plural(self) -> bool:
        """Whether several are meant."""
        return _is_plural(self.head)


def extract_concepts(text: str) -> tuple[Concept, ...]:
    """Concepts in the order in which they are named, each once.

    Left out: words for a picture as such ("photo", "object"), adjectives alone, and phrases after "no" or "without".

    Raises:
        TextError: a blank text.
    """
    (checked,) = check_texts([text], "text to take concepts from")
    phrases = [phrase for phrase in _phrases(checked) if _head(phrase) not in EMPTY]
    return tuple(concept_of(phrase) for phrase in dict.fromkeys(phrases))


def subjects(concepts: Iterable[Concept]) -> tuple[Concept, ...]:
    """What a text is about: its things, or its scenery where it names no thing; "a bus on the road" means the bus."""
    listed = tuple(dict.fromkeys(concepts))
    return tuple(concept for concept in listed if not concept.scenery) or listed


def _phrases(text: str) -> list[str]:
    """Runs of words between function words; "in red" stays with the noun before it."""
    words = [word.replace("’", "'") for word in _WORD.findall(text.lower())]
    found: list[str] = []
    run: list[str] = []
    denied = False
    for place, word in enumerate([*words, "."]):
        follows = words[place + 1 : place + 3]
        if run and word == "in" and _is_clothing(follows):
            run.append(f"in {follows[0]}")
            words[place + 1] = "."
        elif not _ends_phrase(word, follows):
            run.append(word)
            continue
        if any(part not in COLOURS and part not in QUALITIES for part in run):
            if not denied:
                found.append(" ".join(run))
            denied = False
        denied, run = denied or word in _NEGATIONS, []
    return found


def _is_clothing(follows: list[str]) -> bool:
    """Whether "in" begins "in red", and not "in red light"."""
    return bool(follows) and follows[0] in COLOURS and (len(follows) == 1 or _ends_phrase(follows[1], []))


def _ends_phrase(word: str, follows: list[str]) -> bool:
    """Whether a word cannot be part of a noun phrase."""
    if f"{word} {follows[0] if follows else ''}" in _STOP_NOUNS:
        return False
    if word in FUNCTION or word in VERBS or not word[0].isalpha():
        return True
    endings = (("ing", ING_NOUNS), ("ed", ED_NOUNS), ("ly", LY_NOUNS))
    return any(word.endswith(ending) and word not in nouns for ending, nouns in endings)


def concept_of(phrase: str) -> Concept:
    """The concept of a phrase in lower case without an article."""
    head = _head(phrase)
    bare = head in WITHOUT_ARTICLE or _is_plural(head)
    text = phrase if bare else with_article("a concept", [phrase])[0]
    return Concept(phrase, text, head in SCENERY)


def _head(phrase: str) -> str:
    return phrase.split(" in ")[0].rpartition(" ")[2]


def _is_plural(word: str) -> bool:
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))
