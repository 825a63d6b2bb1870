"""Lists of English words that tell noun phrases from the rest of a sentence."""

from __future__ import annotations

from typing import Final

__all__ = [
    "COLOURS",
    "ED_NOUNS",
    "EMPTY",
    "FUNCTION",
    "ING_NOUNS",
    "LY_NOUNS",
    "QUALITIES",
    "SCENERY",
    "VERBS",
    "WITHOUT_ARTICLE",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLOURS: Final = _words(
    "red blue white black yellow green grey gray orange brown pink purple violet beige silver gold dark bright"
)
FUNCTION: Final = _words("""
    a an the this that these those some any each every all both either neither another other such what which whose one
    two three four five six seven eight nine ten several many few more most much lots lot plenty
    i you he she it we they me him her us them my your his its our their mine yours who whom there here where when why
    how something anything nothing everything someone anyone somebody anybody nobody everybody
    and or but nor so yet if then than as while because although though also too only just very really quite still
    in on at by to from of with without for into onto over under above below near behind beside besides between among
    across along around through towards toward against during before after off out up down next front inside outside
    is are was were be been being am isn't aren't wasn't weren't do does did don't doesn't didn't has have had hasn't
    haven't can could can't cannot couldn't will would won't shall should may might must not no yes please maybe
    perhaps probably possibly likely however it's there's i'm that's what's
    """)
VERBS: Final = _words("""
    see sees saw seen look looks show shows shown describe describes tell tells say says name names list lists find
    finds count identify explain caption give gives contain contains include includes depict depicts notice spot think
    believe guess know like likes love hate want need make makes take takes get gets go goes come comes stand stands
    stood sit sits sat lie lies drive drives drove walk walks run runs ride rides wait waits cross crosses move moves
    turn turns stop stops park parks hold holds appear appears seem seems let use uses keep keeps
    """)
EMPTY: Final = _words("""
    image images picture pictures photo photos photograph scene scenes view thing things object objects kind kinds type
    types colour color colours colors left right middle side sides background foreground part parts time detail details
    lot answer question caption front back top bottom
    """)
SCENERY: Final = _words("""
    road roads street streets city town village weather sky day daylight night evening dusk dawn rain fog snow
    winter summer traffic
    """)
WITHOUT_ARTICLE: Final = _words("weather daylight night dusk dawn rain fog snow winter summer traffic")
QUALITIES: Final = _words("clear rainy foggy snowy sunny same different big small large little old new")
ING_NOUNS: Final = _words("building crossing parking railing awning painting ceiling clothing ring wing")
ED_NOUNS: Final = _words("red bed shed sled seed weed")
LY_NOUNS: Final = _words("family fly butterfly")
