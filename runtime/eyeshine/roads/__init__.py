"""A synthetic world of road scenes with captions and exact masks.

``render(seed=…)`` draws one scene. Nothing here is a photograph: the scenes exist so that a small CLIP can be trained
from nothing in an hour and its heat maps scored against masks that are right to the pixel.
"""

from __future__ import annotations

from eyeshine.roads.captions import FACTS, Caption, captions, facts_of, words
from eyeshine.roads.scene import HELD_OUT_FROM, Scene, SceneObject, render
from eyeshine.roads.vocabulary import LABELS, LIGHTS, PHRASES, WEATHERS, article

__all__ = [
    "FACTS",
    "HELD_OUT_FROM",
    "LABELS",
    "LIGHTS",
    "PHRASES",
    "WEATHERS",
    "Caption",
    "Scene",
    "SceneObject",
    "article",
    "captions",
    "facts_of",
    "render",
    "words",
]
