"""ViT-CX: masks from clusters of the last block's features, each weighed by what it does to the score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_share, check_whole
from eyeshine.errors import OptionError
from eyeshine.gates import GATES, open_gates
from eyeshine.methods.passes import Model, Subject
from eyeshine.preprocess import CropBox
from eyeshine.upsample import to_image
from eyeshine_kernels.products import matmul

__all__ = ["VitCx", "cluster_masks", "complete_linkage", "cosine_distances"]

Array = NDArray[np.float32]
_CHANNELS = 32  # enlarged at once: 6 MB at 224 pixels
_NOTHING = 1e-6  # of a mask: float32 rounding of 0, whose quotients would be noise


@dataclass(frozen=True)
class VitCx:
    """``S = 1/K sum_k score_k M_k / sum_k M_k`` with ``score_k = c(x M_k + n_k) - c(x + n_k) + c(x)``.

    Every channel of the tokens that the last block's heads are given (LN1) is a map over the patches, enlarged to the
    input and brought to 0..1. Channels that say the same, by the cosine distance of their maps and complete linkage,
    are summed to one mask M_k. It multiplies the normalised image, and noise n_k (times 1 - M_k) stands where it hides;
    the second image has that noise and hides nothing, so that what noise alone does is taken off. The released code
    scores by softmax probability; here it is the explained cosine. Channels and clusters without contrast are left
    out, and a pixel that no mask shows has no evidence: there the released code divides 0 by 0.

    Attributes:
        distance: clusters nearer than this are merged, in 0..1.
        noise: deviation of the noise, in units of the normalised image, 0..10.
        seed: of the noise.
    """

    distance: float = 0.1
    noise: float = 0.1
    seed: int = 0

    name: ClassVar[str] = "vit_cx"
    signals: ClassVar[frozenset[str]] = frozenset({"features"})
    graphs: ClassVar[frozenset[str]] = frozenset({GATES})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "Xie et al., ViT-CX: Causal Explanation of Vision Transformers, IJCAI 2023"

    def __post_init__(self) -> None:
        check_share("distance", self.distance)
        check_whole("seed", self.seed, 0, 2**32)
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float) or not 0 <= self.noise <= 10:
            raise OptionError("noise is a deviation", got=repr(self.noise), allowed="0..10")

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float64]:
        """Maps [P, h, w]."""
        pixels = subject.pixels
        inputs = {"pixels": pixels[None], **open_gates(model.inputs(GATES), 1)}
        features = model.run(GATES, inputs, ["features"])["features"][0, 1:]
        masks = cluster_masks(features.T.reshape(-1, *model.grid), _covered(model), self.distance)
        model.note(clusters=len(masks))
        frames = self._frames(pixels, masks, model)
        vectors = model.track(model.encode(frames), 2 * len(masks) + 1, self.name)
        scores = np.stack([subject.score(vector) for vector in vectors])  # [1 + 2 K, P]
        weights = scores[1::2] - scores[2::2] + scores[0]
        weighed, shown = np.zeros((weights.shape[1], *_covered(model))), np.zeros(_covered(model))
        for weight, mask in zip(weights, _enlarged(masks, _covered(model)), strict=True):
            weighed += weight[:, None, None] * mask
            shown += mask
        seen = shown > _NOTHING * len(masks)
        maps = np.divide(weighed, shown, out=np.zeros_like(weighed), where=seen) / max(len(masks), 1)
        (rows, columns), (down, across) = model.grid, model.patch
        return np.asarray(maps.reshape(-1, rows, down, columns, across).mean(axis=(2, 4)))

    def _frames(self, pixels: Array, masks: Array, model: Model) -> Iterator[Array]:
        """The image; then for each mask the image under it with noise around, and the image with that noise."""
        yield pixels
        height, width = _covered(model)
        mean, deviation = model.mean[:, None, None], self.noise * model.std[:, None, None]
        rng, frame = np.random.default_rng(self.seed), pixels.copy()
        seen, part = pixels[:, :height, :width], frame[:, :height, :width]
        for mask in _enlarged(masks, (height, width)):
            noise = deviation * rng.standard_normal((3, height, width), np.float32) * (1 - mask)
            part[:] = mean + (seen - mean) * mask + noise
            yield frame
            part[:] = seen + noise
            yield frame


def cluster_masks(maps: Array, size: tuple[int, int], distance: float) -> Array:
    """Feature maps [D, h, w] -> maps [K, h, w] of their clusters, such that enlarged to ``size`` each fills 0..1."""
    alike = _stretched(maps, size)
    labels = complete_linkage(cosine_distances(alike, size), distance)
    sums = np.zeros((labels.max(initial=-1) + 1, *maps.shape[1:]), np.float32)
    np.add.at(sums, labels, alike)
    return _stretched(sums, size)


def cosine_distances(maps: Array, size: tuple[int, int]) -> NDArray[np.float64]:
    """1 - cosine [D, D] of maps [D, h, w] as if they were enlarged to ``size``.

    Enlarging is linear, U m V': products of enlarged maps are products of the small ones with U'U and V'V between.
    """
    grams = []
    for cells, pixels in zip(maps.shape[1:], size, strict=True):
        enlarged = to_image(np.eye(cells, dtype=np.float32)[:, :, None], CropBox.whole(pixels, 1))[..., 0]
        grams.append(matmul(enlarged.astype(np.float64), enlarged.T))
    small, flat = maps.astype(np.float64), (len(maps), grams[0].shape[0] * grams[1].shape[0])
    products = matmul(matmul(matmul(grams[0], small), grams[1]).reshape(flat), small.reshape(flat).T)
    lengths = np.sqrt(np.diagonal(products))
    return np.asarray(1 - products / np.outer(lengths, lengths))


def complete_linkage(distances: NDArray[np.float64], threshold: float) -> NDArray[np.intp]:
    """Labels [n] of clusters whose members all lie nearer than the threshold, in the order of their first members.

    The nearest two clusters are merged first.

    Args:
        distances: [n, n], symmetric.
        threshold: clusters whose farthest members are that far apart or farther are not merged.
    """
    between = distances.copy()
    np.fill_diagonal(between, np.inf)
    owner = np.arange(len(between))
    while between.size:
        i, j = sorted(divmod(int(between.argmin()), len(between)))  # the first member owns a cluster
        if not between[i, j] < threshold:
            break
        between[i] = between[:, i] = np.maximum(between[i], between[j])
        between[i, i] = between[j] = between[:, j] = np.inf
        owner[owner == j] = i
    return np.unique(owner, return_inverse=True)[1]


def _covered(model: Model) -> tuple[int, int]:
    """The part of the input that patches cover, (height, width) in pixels."""
    return model.grid[0] * model.patch[0], model.grid[1] * model.patch[1]


def _enlarged(maps: Array, size: tuple[int, int]) -> Iterator[Array]:
    """Each map [h, w] bilinearly at ``size``, in 0..1 to the last bit."""
    for start in range(0, len(maps), _CHANNELS):
        yield from to_image(maps[start : start + _CHANNELS], CropBox.whole(*size)).clip(0, 1)


def _stretched(maps: Array, size: tuple[int, int]) -> Array:
    """The maps that have contrast, each shifted and scaled such that enlarged to ``size`` it fills 0..1."""
    low, high = np.empty(len(maps), np.float32), np.empty(len(maps), np.float32)
    for start in range(0, len(maps), _CHANNELS):
        part = to_image(maps[start : start + _CHANNELS], CropBox.whole(*size))
        low[start : start + _CHANNELS], high[start : start + _CHANNELS] = part.min((1, 2)), part.max((1, 2))
    kept = high - low > 1e-6 * np.maximum(np.abs(high), np.abs(low))  # less is float32 rounding of a constant
    return np.asarray((maps[kept] - low[kept, None, None]) / (high - low)[kept, None, None])
