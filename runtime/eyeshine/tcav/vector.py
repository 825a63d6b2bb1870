"""A concept as a direction: the normal of the plane between its images and others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import InputError, OptionError
from eyeshine.images import ImageLike
from eyeshine.tcav.activations import Activations
from eyeshine.tcav.options import At, TcavOptions

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer

__all__ = ["LEAST", "ConceptVector", "Fit", "check_images", "fit", "train_concept"]

LEAST: Final = 3
"""Images of a concept: two to learn from, one to see whether it was learned."""
HELD_OUT: Final = 0.33
CURE: Final = "pip install 'eyeshine[concepts]'"

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ConceptVector:
    """A direction in which images of a concept lie.

    Attributes:
        name: of the concept.
        direction: float32 [D], of length 1, towards the concept.
        offset: what ``<activation, direction>`` is compared with: ``+ offset`` is 0 on the classifier's boundary.
        spread: standard deviation of ``<activation, direction>`` over the images it was learned from.
        accuracy: of the classifier on the third of the images that was held out, 0..1; 0.5 is chance.
        blocks, at: which activations, see ``TcavOptions``.
        bundle: name of the bundle whose activations they are.
    """

    name: str
    direction: Array
    offset: float
    spread: float
    accuracy: float
    blocks: int
    at: At
    bundle: str

    def activations(self, explainer: Explainer, max_batch: int = 32) -> Activations:
        """What it is a direction of.

        Raises:
            OptionError: the explainer has another bundle.
        """
        self.check_bundle(explainer.bundle.name)
        return Activations(explainer, self.blocks, self.at, max_batch)

    def check_bundle(self, bundle: str) -> None:
        """Raise OptionError where it is not a direction of this bundle's activations."""
        if bundle != self.bundle:
            raise OptionError(
                f"concept {self.name!r} is of another model", got=bundle, allowed=self.bundle, cure="train it anew"
            )


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear classifier: ``direction`` [D] of length 1, its ``offset``, and its ``accuracy`` on held-out rows."""

    direction: Array
    offset: float
    accuracy: float


def train_concept(
    explainer: Explainer,
    name: str,
    positives: Sequence[ImageLike],
    negatives: Sequence[ImageLike],
    options: TcavOptions | None = None,
    *,
    max_batch: int = 32,
) -> ConceptVector:
    """Find the direction of a concept.

    Args:
        explainer: of a bundle that was exported with ``--signals hidden``.
        name: of the concept, not blank.
        positives: images of it, 3 or more.
        negatives: other images, 3 or more; best as many, and like the positives in everything else.
        options: which activations, and the seed.
        max_batch: most images of one run.

    Raises:
        InputError: too few images, or activations that do not differ.
        OptionError: a blank name; scikit-learn is missing.
        SignalError: a bundle without the graphs.
    """
    options = options or TcavOptions()
    if not isinstance(name, str) or not name.strip():
        raise OptionError("a concept needs a name", got=repr(name))
    check_images("images of the concept", positives, LEAST)
    check_images("other images", negatives, LEAST)
    reader = Activations(explainer, options.blocks, options.at, max_batch)
    ours, others = reader.read(positives), reader.read(negatives)
    found = fit(ours, others, options.seed)
    spread = float((np.concatenate([ours, others]) @ found.direction).std())
    return ConceptVector(
        name, found.direction, found.offset, spread, found.accuracy, options.blocks, options.at, explainer.bundle.name
    )


def fit(positives: Array, negatives: Array, seed: int) -> Fit:
    """Separate activations [n, D] from others [m, D]: a linear SVM by gradient descent, settings of the authors' code.

    Raises:
        InputError: the classifier finds no direction.
        OptionError: scikit-learn is missing.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import SGDClassifier
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise OptionError("concept vectors need scikit-learn", got=str(error), cure=CURE) from error
    rows, labels = np.concatenate([positives, negatives]), np.repeat([1, 0], [len(positives), len(negatives)])
    learn, held, learn_labels, held_labels = train_test_split(
        rows, labels, test_size=HELD_OUT, stratify=labels, random_state=seed
    )
    classifier = SGDClassifier(loss="hinge", alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its accuracy says what came of it
        classifier.fit(learn, learn_labels)
    length = float(np.linalg.norm(classifier.coef_[0]))
    if not np.isfinite(length) or length == 0:
        raise InputError("activations of the concept and of other images do not differ", got=f"length {length}")
    direction = (classifier.coef_[0] / length).astype(np.float32)
    return Fit(direction, float(classifier.intercept_[0]) / length, float(classifier.score(held, held_labels)))


def check_images(what: str, images: Sequence[ImageLike], least: int) -> None:
    """Raise InputError unless ``images`` is a list of at least so many."""
    if not isinstance(images, list | tuple) or len(images) < least:
        got = f"{len(images)} images" if isinstance(images, list | tuple) else type(images).__name__
        raise InputError(f"too few {what}", got=got, allowed=f"a list of {least} or more")
