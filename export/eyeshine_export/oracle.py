"""The reference model that written graphs are compared with, and inputs to compare them on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eyeshine_export.reference import explain_reference, text_reference
from eyeshine_export.source import Source

__all__ = ["Oracle", "common_inputs"]

_DOUBLE_UP_TO = 400_000_000  # weights; beyond that a float64 copy would not fit beside the rest

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Oracle:
    """The reference model, in float64 where it fits."""

    source: Source
    state: Mapping[str, torch.Tensor]
    dtype: torch.dtype

    @classmethod
    def of(cls, source: Source) -> Oracle:
        small = sum(tensor.numel() for tensor in source.state.values()) <= _DOUBLE_UP_TO
        dtype = torch.float64 if small else torch.float32
        return cls(source, {name: tensor.to(dtype) for name, tensor in source.state.items()}, dtype)

    def tensor(self, array: Array) -> torch.Tensor:
        """An array of floats in the precision of the reference."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.dtype)

    def explain(self, pixels: Array, text: Array, layers: int) -> dict[str, Array]:
        """All signals of the last ``layers`` blocks, float32."""
        normalisation = self.source.normalisation
        signals = explain_reference(
            self.state,
            self.source.config,
            self.tensor(pixels),
            self.tensor(text),
            layers,
            normalisation.mean,
            normalisation.std,
        )
        return {name: tensor.float().numpy() for name, tensor in signals.items()}

    def text(self, tokens: Array) -> Array:
        """Unit text embeddings, float32."""
        with torch.no_grad():
            embedding: Array = text_reference(self.state, self.source.config, torch.from_numpy(tokens)).float().numpy()
        return embedding


def common_inputs(source: Source, images: int, prompts: int, random: np.random.Generator) -> dict[str, Array]:
    """Random ``pixels``, ``text`` and ``tokens``; texts of different lengths."""
    config = source.config
    return {
        "pixels": random.random((images, 3, *config.vision.image_size), dtype=np.float32),
        "text": random.standard_normal((prompts, config.embed_dim), dtype=np.float32),
        "tokens": _tokens(random, prompts, source),
    }


def _tokens(random: np.random.Generator, count: int, source: Source) -> NDArray[np.int64]:
    """Random token ids with one end token each, padded."""
    text = source.config.text
    end = text.vocab_size - 1 if text.end_id is None else text.end_id
    tokens = np.full((count, text.context_length), text.pad_id, dtype=np.int64)
    for row in tokens:
        length = int(random.integers(2, text.context_length))
        row[:length] = random.integers(3, text.vocab_size - 2, length)
        row[length] = end
    return tokens
