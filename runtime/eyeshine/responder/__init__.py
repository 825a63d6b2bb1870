"""Who describes an image in words, or knows a concept's kinds: chat servers, a table, any other model.

openai is imported when the first question is asked.
"""

from __future__ import annotations

from eyeshine.responder.base import Expander, Responder, Response
from eyeshine.responder.captioner import CaptionerResponder
from eyeshine.responder.chat import ChatResponder
from eyeshine.responder.expansion import Added, ExpandedText, expand_text, expanded_vector
from eyeshine.responder.hypernyms import HYPERNYMS, HypernymTable

__all__ = [
    "HYPERNYMS",
    "Added",
    "CaptionerResponder",
    "ChatResponder",
    "ExpandedText",
    "Expander",
    "HypernymTable",
    "Responder",
    "Response",
    "expand_text",
    "expanded_vector",
]
