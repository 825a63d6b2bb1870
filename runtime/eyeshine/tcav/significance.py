"""TCAV: how often a prompt's similarity rises along a concept, and whether random images would do as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError
from eyeshine.images import ImageLike
from eyeshine.tcav.activations import Activations
from eyeshine.tcav.options import TcavOptions
from eyeshine.tcav.vector import CURE, LEAST, check_images, fit

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["Tcav", "tcav"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tcav:
    """Scores of one concept for P prompts, from N concept vectors and N random ones.

    Attributes:
        concept: its name.
        texts: the prompts.
        scores: [N, P], share of the examples whose similarity rises along the concept, 0..1.
        random_scores: [N, P], the same for directions between random images.
        p_values: [P], of a two-sided t-test that both have one mean.
        threshold: what p-values are compared with: the level, divided by the number of tests.
        accuracies: [N], of the concept's classifiers on held-out images; about 0.5 says that there is no such concept.
        random_accuracies: [N], of the random ones.
        learned: whether the concept's accuracies are higher, by the same test at the level itself.
        significant: [P], whether the p-value is below the threshold and the concept was learned. The N classifiers
            share the concept's images, so that the t-test takes any fixed set of images for something special too
            often (docs/methods.md has the numbers); one that is no concept is not learned.
    """

    concept: str
    texts: tuple[str, ...]
    scores: Array
    random_scores: Array
    p_values: Array
    threshold: float
    accuracies: Array
    random_accuracies: Array
    learned: bool
    significant: NDArray[np.bool_]

    def record(self) -> dict[str, Any]:
        """Means and tests, for JSON."""
        return {
            "concept": self.concept,
            "accuracy": round(float(self.accuracies.mean()), 6),
            "random_accuracy": round(float(self.random_accuracies.mean()), 6),
            "learned": self.learned,
            "threshold": self.threshold,
            "prompts": [
                {
                    "text": text,
                    "score": round(float(self.scores[:, prompt].mean()), 6),
                    "score_deviation": round(float(self.scores[:, prompt].std(ddof=1)), 6),
                    "random_score": round(float(self.random_scores[:, prompt].mean()), 6),
                    "random_score_deviation": round(float(self.random_scores[:, prompt].std(ddof=1)), 6),
                    "p_value": float(self.p_values[prompt]),
                    "significant": bool(self.significant[prompt]),
                }
                for prompt, text in enumerate(self.texts)
            ],
        }


def tcav(
    explainer: Explainer,
    concept: str,
    positives: Sequence[ImageLike],
    pool: Sequence[ImageLike],
    examples: Sequence[ImageLike],
    texts: Sequence[str],
    options: TcavOptions | None = None,
    *,
    truncate: bool = False,
    max_batch: int = 32,
) -> Tcav:
    """Test whether prompts depend on a concept.

    Every one of N classifiers sets as many images of the concept against as many of the pool, drawn anew; N others set
    random images of the pool against others of it. The score of a prompt along such a direction is the share of
    ``examples`` whose cosine has a positive derivative along it.

    Args:
        explainer: of a bundle that was exported with ``--signals hidden``.
        concept: its name.
        positives: images of it, 3 or more.
        pool: random images, 6 or more.
        examples: images that the prompts are looked at on, 1 or more.
        texts: the prompts.
        options: which activations, how many classifiers, level.
        truncate: accept texts that are longer than the context and cut them.
        max_batch: most images of one run.

    Raises:
        InputError: too few images, or activations that do not differ.
        OptionError: scikit-learn is missing.
        TextError, SignalError: as ``Explainer.explain``.
    """
    options = options or TcavOptions()
    check_images("images of the concept", positives, LEAST)
    check_images("random images", pool, 2 * LEAST)
    check_images("examples", examples, 1)
    vectors = explainer.encode_texts(texts, truncate=truncate)
    reader = Activations(explainer, options.blocks, options.at, max_batch)
    ours, others = reader.read(positives), reader.read(pool)
    slopes = np.concatenate([reader.slopes(tokens, vectors)[1] for tokens in reader.tokens(examples)])

    size, draw = min(len(ours), len(others) // 2), np.random.default_rng(options.seed)
    scores, accuracies = [], []
    for run in range(options.counterparts):
        one, other = np.split(draw.permutation(len(others))[: 2 * size], 2)
        shown = ours[draw.permutation(len(ours))[:size]]
        fits = [fit(shown, others[other], options.seed + run), fit(others[one], others[other], options.seed + run)]
        scores.append([(slopes @ found.direction > 0).mean(axis=0) for found in fits])
        accuracies.append([found.accuracy for found in fits])
    by_concept, by_chance = np.moveaxis(np.array(scores), 1, 0)
    p_values = same_mean(by_concept, by_chance)
    threshold = options.level / (options.tests or len(vectors))
    held, chance = np.array(accuracies).T
    learned = bool(held.mean() > chance.mean() and same_mean(held[:, None], chance[:, None])[0] < options.level)
    significant = (p_values < threshold) & learned
    return Tcav(concept, tuple(texts), by_concept, by_chance, p_values, threshold, held, chance, learned, significant)


def same_mean(one: Array, other: Array) -> Array:
    """p-values [P] of two-sided t-tests that the columns of two samples [N, P] have one mean and one variance.

    Where neither varies there is no t: 1 for equal constants, 0 for others.
    """
    try:
        from scipy.stats import ttest_ind_from_stats
    except ImportError as error:
        raise OptionError("the t-test needs SciPy", got=str(error), cure=CURE) from error
    # From means and deviations: a constant sample, which scores of 1 often are, makes ttest_ind itself warn.
    (first, one_off), (second, other_off) = ((x.mean(axis=0), x.std(axis=0, ddof=1)) for x in (one, other))
    varies = one_off + other_off > 0
    result: Array = (first == second).astype(np.float64)
    result[varies] = ttest_ind_from_stats(
        first[varies], one_off[varies], len(one), second[varies], other_off[varies], len(other)
    ).pvalue
    return result
