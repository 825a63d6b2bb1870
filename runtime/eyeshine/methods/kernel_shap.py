"""Kernel SHAP: Shapley values of the patches, by weighted least squares over coalitions of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice, check_truth, check_whole
from eyeshine.errors import OptionError
from eyeshine.fills import FixedFill, filled
from eyeshine.methods.masking import patch_frames
from eyeshine.methods.passes import Model, Subject

__all__ = ["KernelShap", "coalitions", "solve", "superpatches"]

Exact = NDArray[np.float64]
Coalitions = NDArray[np.bool_]


@dataclass(frozen=True)
class KernelShap:
    """``argmin_phi sum_z pi(z) (v(z) - v(0) - <z, phi>)^2`` with ``<1, phi> = v(1) - v(0)`` exactly.

    A feature is a square of patches, v(z) the score of the image whose other squares are filled. Coalitions z are drawn
    with probability p(k) ~ (M - 1) / (k (M - k)) for k of the M squares, which is the Shapley kernel pi, so that each
    counts the same; where ``samples`` is enough for all of them they are taken, with their kernel as weight, and the
    values are exact. A square's value is shared by its patches, so that a map sums up to v(1) - v(0).

    Attributes:
        samples: coalitions, beside none and all; 2..100000. At least one of its half, or two if not paired, for every
            square.
        side: patches of a square, down and across, 1..64; the last squares are smaller where it does not fit.
        fill: what hidden squares become: "mean" colour, "black" or RISE's "blur".
        paired: draw every coalition with its complement (Covert and Lee, AISTATS 2021): on a random game of nine
            players that took the error to a fifth.
        seed: of the coalitions.
    """

    samples: int = 2000
    side: int = 1
    fill: FixedFill = "mean"
    paired: bool = True
    seed: int = 0

    name: ClassVar[str] = "kernel_shap"
    signals: ClassVar[frozenset[str]] = frozenset()
    graphs: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NIPS 2017"

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 2, 100_000)
        check_whole("side", self.side, 1, 64)
        check_whole("seed", self.seed, 0, 2**32)
        check_choice("fill", self.fill, get_args(FixedFill))
        check_truth("paired", self.paired)

    def explain(self, subject: Subject, model: Model) -> Exact:
        """Maps [P, h, w].

        Raises:
            OptionError: fewer samples than the least squares need.
        """
        square = superpatches(model.grid, self.side)
        count = int(square.max()) + 1
        chosen, weights = coalitions(count, self)
        ends = np.stack([np.zeros(count, bool), np.ones(count, bool)])
        other = filled(subject.pixels, self.fill, model.mean)
        kept = (z[square] for z in np.concatenate([ends, chosen]))
        frames = patch_frames(subject.pixels, other, kept, model.grid, model.patch)
        embeddings = model.track(model.encode(frames), len(chosen) + 2, self.name)
        scores = np.stack([subject.score(embedding) for embedding in embeddings])
        values = solve(chosen, weights, scores[2:], scores[0], scores[1])
        return np.asarray((values / np.bincount(square.ravel()))[:, square])


def superpatches(grid: tuple[int, int], side: int) -> NDArray[np.intp]:
    """[h, w]: which square each patch belongs to, counted row by row."""
    rows, columns = (np.arange(length) // side for length in grid)
    return np.asarray(rows[:, None] * (columns[-1] + 1) + columns)


def coalitions(count: int, options: KernelShap) -> tuple[Coalitions, Exact]:
    """Coalitions [n, M] of ``count`` features, none and all left out, and their weights [n].

    Raises:
        OptionError: fewer than the least squares need.
    """
    if count < 2:
        raise OptionError("Shapley values share between two squares of patches or more", got=count, cure="side=1")
    if count <= 20 and 2**count - 2 <= options.samples:
        return _all_coalitions(count)
    # Of a pair, one says nothing that the other does not: the least squares see the difference of the two.
    least = 2 * (count - 1) if options.paired else count - 1
    if options.samples < least:
        raise OptionError(
            "too few samples for so many squares of patches", got=f"samples={options.samples} for {count}",
            allowed=f"{least} and more", cure="more samples, or a larger side",
        )  # fmt: skip
    rng = np.random.default_rng(options.seed)
    sizes = np.arange(1, count)
    odds = (count - 1) / (sizes * (count - sizes))
    draws = -(-options.samples // 2) if options.paired else options.samples
    size = rng.choice(sizes, draws, p=odds / odds.sum())
    # The features that come first in a random order; argsort twice gives each feature's place in it.
    place = rng.random((draws, count)).argsort(axis=1).argsort(axis=1)
    drawn = place < size[:, None]
    if options.paired:
        drawn = np.stack([drawn, ~drawn], axis=1).reshape(-1, count)[: options.samples]
    return drawn, np.ones(len(drawn))


def _all_coalitions(count: int) -> tuple[Coalitions, Exact]:
    members = [(k, each) for k in range(1, count) for each in combinations(range(count), k)]
    chosen = np.zeros((len(members), count), bool)
    for row, (_, each) in zip(chosen, members, strict=True):
        row[list(each)] = True
    return chosen, np.array([(count - 1) / (comb(count, k) * k * (count - k)) for k, _ in members])


def solve(chosen: Coalitions, weights: Exact, scores: Exact, none: Exact, everything: Exact) -> Exact:
    """Shapley values [P, M] from coalitions [n, M], their weights [n] and scores [n, P], and those [P] of the ends.

    The last value is what the others leave of v(1) - v(0), which makes the constraint exact.
    """
    total = everything - none
    z = chosen.astype(np.float64)
    left, right = z[:, :-1] - z[:, -1:], scores - none - z[:, -1:] * total
    root = np.sqrt(weights)[:, None]
    first = np.linalg.lstsq(root * left, root * right, rcond=None)[0]
    return np.concatenate([first, (total - first.sum(axis=0))[None]]).T
