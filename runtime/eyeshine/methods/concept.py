"""Concept Attribution: attention of chosen heads fused with the boosted gradient of a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from eyeshine.concept.options import ConceptOptions
from eyeshine.concept.selection import HeadSelection
from eyeshine.methods.base import Array, BlockSignals, need
from eyeshine_kernels.backend import Backend
from eyeshine_kernels.head_scores import head_scores
from eyeshine_kernels.normalize import normalize
from eyeshine_kernels.products import matmul
from eyeshine_kernels.relevance import RelevanceOptions, relevance

__all__ = ["ConceptAttribution"]

_SIGNED = RelevanceOptions(signed=True)


@dataclass(frozen=True)
class ConceptAttribution:
    """``(1 - alpha) SA~ + alpha boost(G~)`` with SA and G over the heads that the text chooses.

    ``SA_i = mean over chosen heads of A_h[class, i]`` and ``G_i = sum over chosen heads of <g_h, V_{h,i}>``; the paper
    names neither layer, heads, row nor derivative (readings A1). Each is brought to 0..1, G is boosted, both are fused.

    Attributes:
        options: alpha, beta, strategy and the rest.
    """

    options: ConceptOptions = field(default_factory=ConceptOptions)

    name: ClassVar[str] = "concept_attribution"
    signals: ClassVar[frozenset[str]] = frozenset({"values", "class_attention", "gradient"})
    needs: ClassVar[frozenset[str]] = frozenset({"text", "head_projection"})
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "patches"
    reference: ClassVar[str] = "Concept Attribution and dual explainability, sections III-A to III-I"

    @property
    def blocks(self) -> int:
        """How many of the last blocks it reads: 1 for strategy "heads"."""
        return self.options.explained_blocks

    @property
    def background(self) -> float:
        """What pictures suppress."""
        return float(self.options.background)

    def maps(self, signals: BlockSignals, prompts: int) -> Array:
        """Maps [B, P, N] in 0..1."""
        return self.attribute(signals)[0]

    def attribute(self, signals: BlockSignals) -> tuple[Array, HeadSelection]:
        """Maps [B, P, N] in 0..1, and which heads they were made of."""
        options, backend = self.options, signals.backend
        attention, values = need(signals.class_attention, "class_attention"), need(signals.values, "values")
        scores = head_scores(
            attention,
            values,
            need(signals.head_projection, "head_projection"),
            need(signals.text, "text"),
            options=options.head_options(attention.shape[2]),
            backend=backend,
        )
        evidence = relevance(
            need(signals.gradient, "gradient"),
            values,
            heads=attention.shape[2],
            options=_SIGNED,
            head_weights=scores.weights * scores.indices.shape[2],  # 1 for chosen heads
            backend=backend,
        )
        maps = self._fuse(evidence, _chosen_attention(scores.weights, attention), backend)
        return maps, HeadSelection.of(scores, options, signals.depth)

    def _fuse(self, evidence: Array, attention: Array, backend: Backend) -> Array:
        """Evidence and attention [B, P, K, N] to maps [B, P, N]."""
        options = self.options
        if not isinstance(options.alpha, tuple):
            settings = options.normalize_options(options.alpha)
            return normalize(evidence.sum(2), attention.sum(2), options=settings, backend=backend)
        total: Any = 0
        for block, alpha in enumerate(options.alphas):
            settings = options.normalize_options(alpha)
            total = total + normalize(evidence[:, :, block], attention[:, :, block], options=settings, backend=backend)
        return total / len(options.alphas)


def _chosen_attention(weights: Array, attention: Array) -> Array:
    """Attention [B, K, H, T] of the class token, weighed by [B, P, K, H] over heads: to the patches, [B, P, K, N]."""
    per_block = matmul(weights.swapaxes(1, 2), attention[..., 1:])
    return per_block.swapaxes(1, 2)
