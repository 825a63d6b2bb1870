"""Golden values: inputs with the outputs that autograd gives for them, so that any engine can be checked anywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from eyeshine.signals import last_blocks
from eyeshine_export.parity import Oracle

__all__ = ["golden_values"]


def golden_values(oracle: Oracle, graphs: Mapping[str, int]) -> dict[str, NDArray[np.generic]]:
    """Inputs and the oracle's outputs for one image and two prompts: ``in/NAME`` and ``GRAPH/OUTPUT``.

    Keys and values are left out of the deep graph's, where they would be most of the file.
    """
    config = oracle.source.config
    random = np.random.default_rng(1)
    pixels = random.random((1, 3, *config.vision.image_size), dtype=np.float32)
    text = random.standard_normal((2, config.embed_dim), dtype=np.float32)
    end = config.text.vocab_size - 1 if config.text.end_id is None else config.text.end_id
    tokens = np.array([[3, end, 0], [end, 0, 0]], dtype=np.int64)  # three is the shortest context there is
    values: dict[str, NDArray[np.generic]] = {"in/pixels": pixels, "in/text": text, "in/tokens": tokens}
    values["text/text_embedding"] = oracle.text(tokens)
    signals = oracle.explain(pixels, text, max(graphs.values()))
    values["encode/embedding"] = signals["embedding"]
    for graph in ("image", "deep"):
        if graph in graphs:
            for name, signal in signals.items():
                if graph == "image" or name not in ("keys", "values"):
                    values[f"{graph}/{name}"] = last_blocks(name, signal, graphs[graph])
    return values
