"""M2IB: how much of each token a text needs, found by an information bottleneck before the last blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_whole
from eyeshine.errors import OptionError
from eyeshine.methods.passes import Model, Subject
from eyeshine.methods.tails import LONGEST, Tail, batches, image_tail, tail_graphs, text_tail

__all__ = ["Adam", "M2ib", "information", "information_slope"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class M2ib:
    """``S_i = sum_d KL(N(lambda X, (1 - lambda)^2) | N(0, 1))_{i,d}``, X the tokens before the last blocks.

    ``lambda = sigmoid(alpha)`` lets through as much of every channel of every token as keeps the similarity:
    ``lambda X + (1 - lambda) eps`` with noise eps goes through the last blocks, and Adam takes alpha down
    ``beta mean(KL) - mean over copies of c``. The map is that of the last forward pass, as the released code's, which
    alpha's last step never reaches; so that step is not computed: ``steps - 1`` runs of the tail for each text.
    Noise is drawn for every step and copy, the same for all texts of an image.

    Attributes:
        steps: of Adam, 1..1000.
        copies: with noise of their own, 1..1000.
        beta: weight of the information, 0 and more.
        rate: of Adam, above 0.
        start: alpha before the first step.
        blocks: that lie above the bottleneck, 1..3; 2 is the authors' "after block 9" of 12.
        seed: of the noise.
    """

    steps: int = 10
    copies: int = 10
    beta: float = 0.1
    rate: float = 1.0
    start: float = 5.0
    blocks: int = 2
    seed: int = 0

    name: ClassVar[str] = "m2ib"
    signals: ClassVar[frozenset[str]] = frozenset({"hidden", "state_gradient"})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Wang et al., Visual Explanations of Image-Text Representations via M2IB, NeurIPS 2023"

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 1000)
        check_whole("copies", self.copies, 1, 1000)
        check_whole("blocks", self.blocks, 1, LONGEST)
        check_whole("seed", self.seed, 0, 2**32)
        for name, low, high in (("beta", 0, 1e6), ("rate", 1e-6, 1e3), ("start", -50, 50)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise OptionError(f"{name} outside its range", got=repr(value), allowed=f"{low:g}..{high:g}")

    @property
    def graphs(self) -> frozenset[str]:
        """``hidden`` and the tail of so many blocks."""
        return tail_graphs(self.blocks)

    def explain(self, subject: Subject, model: Model) -> NDArray[Any]:
        """Maps [P, N], non-negative."""
        return self._needed(image_tail(subject, model, self.blocks), model)[:, 1:]

    def explain_text(self, ids: NDArray[np.int64], images: NDArray[np.float32], model: Model) -> NDArray[Any]:
        """Relevance [B, N] of the tokens between start and end of a text, ids [L], for images [B, E]; non-negative."""
        return self._needed(text_tail(ids, images, model, self.blocks), model)[:, 1:-1]

    def _needed(self, tail: Tail, model: Model) -> NDArray[Any]:
        """[P, T], information of every token."""
        tokens, lengths = tail.tokens, tail.lengths.astype(np.float32)
        noise = np.random.default_rng(self.seed)
        alpha = np.full((len(lengths), *tokens.shape), self.start, np.float32)
        adam = Adam(alpha, self.rate)
        for _ in model.track(range(self.steps - 1), self.steps - 1, self.name):
            drawn = noise.standard_normal((self.copies, *tokens.shape), np.float32)
            towards = self._towards(tail, drawn, model)
            slope = [
                self.beta / tokens.size * information_slope(a, tokens) - length * towards(a, text)
                for a, text, length in zip(alpha, tail.targets, lengths, strict=True)
            ]
            adam.step(np.stack(slope))
        needed: Array = information(alpha, tokens).sum(axis=-1)
        return needed

    def _towards(self, tail: Tail, noise: Array, model: Model) -> Callable[[Array, NDArray[np.float32]], Array]:
        """For this noise: d(mean over copies of c)/d(alpha) of one text."""
        apart = tail.tokens - noise

        def slope(alpha: Array, text: NDArray[np.float32]) -> Array:
            share, rest = _sigmoid(alpha), _sigmoid(-alpha)
            total = np.zeros_like(tail.tokens)
            for part in batches(len(noise), model):
                states = noise[part] + share * apart[part]
                gradient = tail.gradients(states, text[None])[:, 0]
                total += np.einsum("ctd,ctd->td", gradient, apart[part])
            return total * (share * rest) / np.float32(len(noise))

        return slope


class Adam:
    """Adam with bias correction, beta 0.9 and 0.999, eps 1e-8; changes ``values`` in place.

    Args:
        values: float32.
        rate: learning rate.

    Reference: Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
    """

    def __init__(self, values: Array, rate: float) -> None:
        self.values, self.rate, self.steps = values, rate, 0
        self._first, self._second = np.zeros_like(values), np.zeros_like(values)

    def step(self, gradient: Array) -> None:
        """One step down the gradient."""
        self.steps += 1
        self._first += 0.1 * (gradient - self._first)
        self._second += 0.001 * (gradient * gradient - self._second)
        first = self._first / (1 - 0.9**self.steps)
        second = self._second / (1 - 0.999**self.steps)
        self.values -= self.rate * first / (np.sqrt(second) + 1e-8)


def information(alpha: Array, tokens: Array) -> Array:
    """KL(N(lambda X, (1 - lambda)^2) | N(0, 1)) of every element, in nats, 0 and more.

    ln(1 - lambda) is taken from alpha itself, so that it is finite where lambda rounds to 1; the released code drops
    what is not a number there.
    """
    share, rest = _sigmoid(alpha), _sigmoid(-alpha)
    divergence = np.logaddexp(0, alpha) + 0.5 * ((share * tokens) ** 2 + rest**2 - 1)
    return np.maximum(divergence, 0).astype(np.float32)  # rounding may leave -1e-8


def information_slope(alpha: Array, tokens: Array) -> Array:
    """d(information)/d(alpha) of every element."""
    share, rest = _sigmoid(alpha), _sigmoid(-alpha)
    slope: Array = share + share * rest * (share * tokens**2 - rest)
    return slope


def _sigmoid(alpha: Array) -> Array:
    """1/(1 + exp(-alpha)), to all digits however small and without overflow."""
    share: Array = np.exp(-np.logaddexp(0, -alpha))
    return share
