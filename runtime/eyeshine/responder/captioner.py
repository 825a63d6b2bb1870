"""The captioner that belongs to the embedded model, as a responder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from eyeshine.images import ImageLike
from eyeshine.responder.base import Expander, Response
from eyeshine.responder.hypernyms import HypernymTable

if TYPE_CHECKING:
    from eyeshine.captioner import Captioner

__all__ = ["CaptionerResponder"]


@dataclass(frozen=True)
class CaptionerResponder:
    """Answers with a captioner, and knows kinds by a table: the captioner knows no words but those of its scenes.

    Attributes:
        captioner: ``Captioner.load()`` opens the embedded one.
        table: what ``expand`` asks.
    """

    captioner: Captioner
    table: Expander = field(default_factory=HypernymTable)

    def respond(self, image: ImageLike, prompt: str) -> Response:
        """Answer a prompt about an image, each time with the likeliest next word.

        Raises:
            ImageError, TextError: what was passed in cannot be used.
            ResponderError: the captioner ends its answer before the first word.

        Warns:
            UnknownWordsWarning: words of the prompt that the captioner never saw, named.
        """
        return Response(**asdict(self.captioner.respond(image, prompt)))

    def expand(self, concept: str) -> list[str]:
        """Kinds of a concept, as the table has them.

        Raises:
            TextError: a blank concept.
        """
        return self.table.expand(concept)
