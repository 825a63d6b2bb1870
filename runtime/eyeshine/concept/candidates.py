"""Lists of things that may be in a picture: what contrastive texts are chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eyeshine.errors import OptionError
from eyeshine.texts import check_texts

__all__ = ["CANDIDATES", "load_candidates"]

_STREET: Final = (
    "a car", "a truck", "a bus", "a pedestrian", "a cyclist", "a dog", "a traffic light", "a stop sign", "a cone",
    "a hydrant", "a bench", "a tree", "a building", "a crosswalk",
)  # fmt: skip
"""What a street holds, in the words that the embedded model knows; any CLIP knows them too."""

_COCO: Final = tuple(
    f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    for name in (
        "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
        "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
        "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
        "pair of skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
        "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
        "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
        "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
        "toaster", "sink", "refrigerator", "book", "clock", "vase", "pair of scissors", "teddy bear", "hair drier",
        "toothbrush",
    )
)  # fmt: skip
"""The 80 categories of COCO."""

CANDIDATES: Final[dict[str, tuple[str, ...]]] = {"street": _STREET, "coco": _COCO}
"""Built-in lists by name."""


def load_candidates(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Candidates from a built-in list's name, a file with one text a line, or a list; doubles are dropped.

    Raises:
        OptionError: neither a name nor a file, or a file that cannot be read.
        TextError: a blank text, or none.
    """
    if isinstance(source, str) and source in CANDIDATES:
        return CANDIDATES[source]
    if not isinstance(source, str | Path):
        return tuple(dict.fromkeys(check_texts(source, "candidate")))
    path = Path(source)
    if not path.is_file():
        allowed = f"{', '.join(CANDIDATES)}, a file with one text a line, or a list"
        raise OptionError("unknown candidates", got=repr(str(source)), allowed=allowed)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("candidates cannot be read", got=f"{path}: {error}") from error
    return tuple(dict.fromkeys(check_texts([line.strip() for line in lines if line.strip()], "candidate")))
