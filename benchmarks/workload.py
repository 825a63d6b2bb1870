"""Inputs of a measurement, and what autograd makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.eager import grad_eclip_map
from eyeshine_export.reference import explain_reference, image_tail, image_tower
from eyeshine_export.source import Source

__all__ = ["Workload"]

Array = NDArray[Any]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """Random images and texts for one model, and the oracle.

    Attributes:
        source: configuration and weights.
        batch: B.
        device: torch's name of where the oracle runs, in float32.
    """

    source: Source
    batch: int = 1
    device: str = "cpu"

    @cached_property
    def pixels(self) -> Pixels:
        """[B, 3, Y, X] in 0..1."""
        size = self.source.config.vision.image_size
        return np.random.default_rng(0).random((self.batch, 3, *size), dtype=np.float32)

    @cached_property
    def normalised(self) -> Pixels:
        """The same for those that expect mean and std to be gone."""
        normalisation = self.source.normalisation
        mean, std = (np.array(x, np.float32).reshape(1, 3, 1, 1) for x in (normalisation.mean, normalisation.std))
        return np.asarray((self.pixels - mean) / std, np.float32)

    def text(self, prompts: int) -> Pixels:
        """Unit vectors [P, E], as the text cache gives them."""
        vectors = np.random.default_rng(1).standard_normal((prompts, self.source.config.embed_dim), dtype=np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def watched(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The first and the last image of every output: what the oracle computes."""
        return {name: array[self._rows] for name, array in outputs.items()}

    def expected(
        self, prompts: int, blocks: int = 1, *, pixels: Pixels | None = None, text: Pixels | None = None
    ) -> dict[str, Array]:
        """Embedding, similarity, gradient [B, P, K, D] of the last ``blocks`` blocks and map [B, P, N] of the last.

        Args:
            prompts: P.
            blocks: K.
            pixels, text: in place of this workload's own.
        """
        images = self.pixels[self._rows] if pixels is None else pixels
        texts = self.text(prompts) if text is None else text
        found = self.on_device(
            torch.from_numpy(images).to(self.device), torch.from_numpy(texts).to(self.device), blocks
        )
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def embeddings(self, pixels: Pixels) -> Array:
        """Unit embeddings [n, E] of images [n, 3, Y, X] in 0..1."""
        images, normalisation = torch.from_numpy(pixels).to(self.device), self.source.normalisation
        with torch.no_grad(), torch.device(self.device):
            found, _ = image_tower(self._state, self.source.config, images, normalisation.mean, normalisation.std)
        return np.asarray(torch.nn.functional.normalize(found, dim=-1).cpu().numpy())

    def tokens(self, pixels: Pixels, blocks: int) -> torch.Tensor:
        """Tokens [n, T, D] before the last ``blocks`` blocks, of images [n, 3, Y, X] in 0..1."""
        images, normalisation = torch.from_numpy(pixels).to(self.device), self.source.normalisation
        with torch.no_grad(), torch.device(self.device):
            _, trace = image_tower(self._state, self.source.config, images, normalisation.mean, normalisation.std)
        return trace.input[-blocks]

    def embeddings_of(self, tokens: torch.Tensor, blocks: int) -> torch.Tensor:
        """Unit embeddings [n, E] of tokens [n, T, D] before the last ``blocks`` blocks; autograd may follow them."""
        with torch.device(self.device):
            found, _ = image_tail(self._state, self.source.config, tokens, blocks)
        return torch.nn.functional.normalize(found, dim=-1)

    def on_device(self, pixels: torch.Tensor, text: torch.Tensor, blocks: int) -> dict[str, torch.Tensor]:
        """The same from tensors on the device, left there."""
        normalisation = self.source.normalisation
        with torch.device(self.device):  # for the constants that the reference makes
            signals = explain_reference(
                self._state, self.source.config, pixels, text, blocks, normalisation.mean, normalisation.std
            )
        query, keys, values = (signals[name][:, -1] for name in ("class_query", "keys", "values"))
        maps = [
            grad_eclip_map(signals["gradient"][:, prompt, -1], query, keys[:, 1:], values[:, 1:])
            for prompt in range(len(text))
        ]
        found = {name: signals[name] for name in ("embedding", "similarity", "gradient")}
        return {**found, "maps": torch.stack(maps, dim=1)}

    @property
    def _rows(self) -> list[int]:
        return sorted({0, self.batch - 1})

    @cached_property
    def _state(self) -> dict[str, torch.Tensor]:
        state = self.source.state
        return {name: state[name].to(self.device) for name in state if name.startswith("visual.")}
