"""NIB and M2IB on the text side: methods that run the text tower's last blocks many times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import EngineError
from eyeshine.methods.m2ib import M2ib
from eyeshine.methods.nib import Nib
from eyeshine.methods.passes import Model
from eyeshine.tokenizer import Pieces

__all__ = ["TEXT_TAILS", "TextTails", "by_tails", "explain_by_tails"]

Array = NDArray[np.float32]


class TextTails(Protocol):
    """A method that explains a text by running the last ``blocks`` blocks of its tower."""

    name: ClassVar[str]

    @property
    def blocks(self) -> int: ...

    def explain_text(self, ids: NDArray[np.int64], images: Array, model: Model) -> NDArray[Any]:
        """Relevance [B, N] of the tokens between start and end of a text, ids [L], for images [B, E]."""
        ...


TEXT_TAILS: Final[dict[str, TextTails]] = {Nib.name: Nib(), M2ib.name: M2ib()}
"""By name; those of the image side, and of a bundle with ``--signals hidden``."""


def by_tails(method: object) -> TypeGuard[TextTails]:
    """Whether a method runs the tower, rather than read one run's signals."""
    return not isinstance(method, str | type) and hasattr(method, "explain_text")


def explain_by_tails(pieces: Sequence[Pieces], images: Array, method: TextTails, model: Model) -> tuple[Array, Array]:
    """Relevance [B, P, N] of P texts for images [B, E], padded with zeros to the longest text, and cosines [B, P].

    Raises:
        EngineError: the engine failed, or a value is not finite.
    """
    relevance = np.zeros((len(images), len(pieces), max(len(each.names) for each in pieces)), np.float32)
    similarities = np.empty(relevance.shape[:2], np.float32)
    for row, each in enumerate(pieces):
        ids = each.row[: len(each.names) + 2]
        embedding = model.run("text", {"tokens": ids[None]}, ["text_embedding"])["text_embedding"][0]
        similarities[:, row] = images @ embedding
        relevance[:, row, : len(each.names)] = method.explain_text(ids, images, model)
    if not np.isfinite(relevance).all():
        raise EngineError(f"method {method.name} yielded a value that is not finite", cure="report it with the text")
    return relevance, similarities
