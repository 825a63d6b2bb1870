"""The texts of one training step and of which of its scenes each is true.

The supervision is at the level of the whole picture: a scene's list of what is in it says whether a text holds.
Where in the picture anything is, nobody tells the model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from eyeshine import roads
from eyeshine.roads import Caption
from eyeshine_export.roads.config import UNKNOWN
from eyeshine_export.roads.data import row_facts

_WRAPS = ("{}", "{}", "{}", "a photo of {}", "a picture of {}", "there is {}")
_INDEX = {fact: k for k, fact in enumerate(roads.FACTS)}
_COLOURED = tuple(phrase for phrase in roads.PHRASES if phrase not in {roads.article(x) for x in roads.LABELS})
NOTHING = "nothing"  # a claim that no scene fulfils


def _prompt(words: str, fact: str, rng: np.random.Generator) -> Caption:
    """A prompt for one object phrase, wrapped or without its article at times."""
    if rng.random() < 0.2:
        return Caption(words.split(" ", 1)[1], ((fact, 1),))
    return Caption(_WRAPS[int(rng.integers(len(_WRAPS)))].format(words), ((fact, 1),))


def _with_unknown(caption: Caption, rng: np.random.Generator) -> Caption:
    """The caption with an unknown word somewhere in it, which must not change what it means."""
    words = caption.text.split()
    words.insert(int(rng.integers(1, len(words) + 1)), UNKNOWN)
    return Caption(" ".join(words), caption.claims)


def pool(rows: npt.NDArray[np.uint8], count: int, rng: np.random.Generator) -> list[Caption]:
    """The distinct texts of a step.

    Every label once (present or absent), half of all coloured phrases (so that a scene with a red car also sees "a
    blue car", which is false), ``count`` captions of scenes of the batch, and one text of unknown words, which is
    true of nothing.

    Args:
        rows: fact rows of the batch, uint8 [B, F].
        count: captions to draw.
        rng: chooses.
    """
    texts = [_prompt(roads.article(label), label, rng) for label in roads.LABELS]
    coloured = rng.choice(len(_COLOURED), size=len(_COLOURED) // 2, replace=False)
    texts += [_prompt(_COLOURED[k], _COLOURED[k], rng) for k in coloured]
    for k in rng.integers(len(rows), size=count):
        (caption,) = roads.captions(row_facts(rows[k]), rng, 1)
        texts.append(_with_unknown(caption, rng) if rng.random() < 0.15 else caption)
    texts.append(_prompt(f"a {UNKNOWN}", NOTHING, rng))
    return list({caption.text: caption for caption in texts}.values())


def truth(rows: npt.NDArray[np.uint8], texts: list[Caption]) -> npt.NDArray[np.bool_]:
    """Whether each text is true of each scene, bool [B, T], from fact rows uint8 [B, F]."""
    out = np.ones((len(rows), len(texts)), dtype=np.bool_)
    for t, caption in enumerate(texts):
        for fact, least in caption.claims:
            out[:, t] &= False if fact == NOTHING else rows[:, _INDEX[fact]] >= least
    return out


def token_ids(tokenizer: Tokenizer, texts: list[Caption]) -> npt.NDArray[np.int64]:
    """The texts' ids, int64 [T, context]."""
    return np.array([row.ids for row in tokenizer.encode_batch([c.text for c in texts])], dtype=np.int64)
