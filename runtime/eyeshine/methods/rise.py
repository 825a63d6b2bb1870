"""RISE: the mean of random masks, each weighed by what the model says of the image under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_share, check_truth, check_whole
from eyeshine.methods.passes import Model, Subject
from eyeshine_kernels.products import matmul

__all__ = ["Rise", "draw_masks", "enlarge"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Rise:
    """``S_i = 1 / (n p) sum_n score(x under M_n) M_n(i)``, the mean over the pixels of patch i.

    A mask is a random grid of s x s cells, each 1 with probability p, enlarged bilinearly to (s + 1) cells a side and
    cut out at a random place. It multiplies the normalised image, so that what it hides turns into the mean colour.
    All texts of an image share its passes, and all images share the masks.

    A cosine is mostly a constant: with it, a patch that masks happened to show more often is hot whatever the image
    says. ``centred`` takes the mean score off first. The expected map is lower by that constant, and two seeds agree
    as well with a fraction of the masks (docs/methods.md has the numbers). Without it the formula is the paper's.

    Attributes:
        masks: n, 1..100000.
        cells: s, 1..64.
        probability: p, in 0..1.
        centred: weigh masks by the score less the mean score.
        seed: of the masks.
    """

    masks: int = 2000
    cells: int = 8
    probability: float = 0.5
    centred: bool = True
    seed: int = 0

    name: ClassVar[str] = "rise"
    signals: ClassVar[frozenset[str]] = frozenset()
    graphs: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation, BMVC 2018"

    def __post_init__(self) -> None:
        check_whole("masks", self.masks, 1, 100_000)
        check_whole("cells", self.cells, 1, 64)
        check_whole("seed", self.seed, 0, 2**32)
        check_share("probability", self.probability)
        check_truth("centred", self.centred)

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float64]:
        """Maps [P, h, w]."""
        grids, shifts = draw_masks(self, model.size)
        down, across = (enlarge(length, self.cells) for length in model.size)
        masks = (matmul(down[y] @ grid, across[x].T) for grid, (y, x) in zip(grids, shifts, strict=True))
        frames = _under(masks, subject.pixels, model.mean)
        embeddings = model.track(model.encode(frames), self.masks, self.name)
        scores = np.stack([subject.score(embedding) for embedding in embeddings])
        if self.centred:
            scores -= scores.mean(axis=0)
        # The mean over a patch is linear in the grid, as the mask is: pixels are not needed again.
        rows, columns = (_patch_means(*sides) for sides in zip((down, across), model.grid, model.patch, strict=True))
        total = np.zeros((scores.shape[1], *model.grid))
        for score, grid, (y, x) in zip(scores, grids, shifts, strict=True):
            total += score[:, None, None] * (rows[y] @ grid @ columns[x].T)
        return total / (self.masks * self.probability)


def draw_masks(options: Rise, size: tuple[int, int]) -> tuple[Array, NDArray[np.int64]]:
    """Random grids [n, s, s] of 0 and 1, and where each is cut out, [n, 2] pixels down and across."""
    rng = np.random.default_rng(options.seed)
    grids = rng.random((options.masks, options.cells, options.cells)) < options.probability
    shifts = np.stack([rng.integers(0, _cell(length, options.cells), options.masks) for length in size], axis=1)
    return grids.astype(np.float32), shifts


def enlarge(length: int, cells: int) -> Array:
    """[shift, length, cells]: how much of each cell each pixel takes, for every place at which a mask can be cut out.

    Bilinear between the centres of cells, mirrored at the outermost ones, as the released code's ``resize`` does.
    """
    cell = _cell(length, cells)
    full = (cells + 1) * cell
    place = np.abs((np.arange(full) + 0.5) * cells / full - 0.5)
    place = np.minimum(place, 2 * (cells - 1) - place) if cells > 1 else np.zeros(full)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))).astype(np.float32)
    return np.stack([weights[shift : shift + length] for shift in range(cell)])


def _cell(length: int, cells: int) -> int:
    """Side of a cell in pixels, and the number of places to cut out at."""
    return -(-length // cells)


def _patch_means(enlarged: Array, count: int, side: int) -> NDArray[np.float64]:
    """[shift, length, cells] to the means over patches, [shift, count, cells]."""
    shifts, _, cells = enlarged.shape
    within = enlarged[:, : count * side].reshape(shifts, count, side, cells)
    return np.asarray(within.mean(axis=2, dtype=np.float64))


def _under(masks: Iterable[Array], image: Array, mean: Array) -> Iterator[Array]:
    """The image under each mask [Y, X], the mean colour where it is 0; one frame, written over."""
    colour = mean[:, None, None]
    above, frame = image - colour, np.empty_like(image)
    for mask in masks:
        np.multiply(above, mask, out=frame)
        frame += colour
        yield frame
