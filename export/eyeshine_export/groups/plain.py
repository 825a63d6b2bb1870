"""What every bundle holds: ``encode``, ``image`` (the last block explained), ``text``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine_export.graph.towers import encode_graph, explain_graph, text_graph
from eyeshine_export.groups.base import Built, Case, Group, Parts
from eyeshine_export.oracle import Oracle

__all__ = ["PLAIN"]


def _build(parts: Parts) -> dict[str, Built]:
    config, form = parts.config, parts.form
    return {
        "encode": Built(encode_graph(config, parts.vision, form), 0),
        "image": Built(explain_graph(config, parts.vision, form=form), 1, (config.vision.depth - 1,)),
        "text": Built(text_graph(config, parts.text, form), 0),
    }


def _cases(
    oracle: Oracle, _: Mapping[str, Built], inputs: Mapping[str, NDArray[np.generic]]
) -> Iterator[Case]:  # fmt: skip
    pixels, text, tokens = inputs["pixels"], inputs["text"], inputs["tokens"]
    yield Case(("text",), f"P={len(tokens)}", {"tokens": tokens}, {"text_embedding": oracle.text(tokens)})
    shape = f"B={len(pixels)}, P={len(text)}"
    yield Case(("encode", "image"), shape, {"pixels": pixels, "text": text}, oracle.explain(pixels, text, 1))


PLAIN: Final = Group(
    "plain", "embeddings, and the signals of the last attention", _build, _cases, fits=lambda config: True
)
