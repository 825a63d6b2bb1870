"""From changes to similarities."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyeshine.checks import check_choice
from eyeshine.errors import OptionError
from eyeshine.fills import filled
from eyeshine.gates import GATES
from eyeshine.images import ImageLike
from eyeshine.interventions.bench import Bench
from eyeshine.interventions.changes import Changes, as_patches, head_values_of
from eyeshine.interventions.result import Intervention, Sweep, What
from eyeshine.methods.masking import patch_frames
from eyeshine.texts import check_texts
from eyeshine_kernels.products import matmul

if TYPE_CHECKING:
    from eyeshine.opened import Opened
    from eyeshine.sessions import Sessions

__all__ = ["ablate_each", "head_means", "intervene"]

Array = NDArray[np.float32]


def intervene(
    explainer: Opened,
    sessions: Sessions,
    image: ImageLike,
    texts: Sequence[str],
    changes: Changes,
    *,
    truncate: bool,
) -> Intervention:
    """Similarities of an image and texts, with and without the changes; see ``Explainer.intervene``."""
    started = perf_counter()
    listed, bench = check_texts(texts), Bench(explainer, sessions)
    vectors = explainer.encode_texts(listed, truncate=truncate)
    graph, both = (_changed if changes.region is None else _replaced)(bench, image, changes)
    before, after = matmul(both, vectors.T)
    return Intervention(
        texts=tuple(listed),
        changes=changes.describe(),
        before=before,
        after=after,
        bundle=explainer.bundle.name,
        engine=bench.facts(graph),
        wall_ms=(perf_counter() - started) * 1e3,
    )


def ablate_each(
    explainer: Opened,
    sessions: Sessions,
    image: ImageLike,
    texts: Sequence[str],
    what: What,
    *,
    head_values: ArrayLike | None,
    max_batch: int | None,
    truncate: bool,
) -> Sweep:
    """Similarities where every part is taken away in turn; see ``Explainer.ablate_each``."""
    started = perf_counter()
    check_choice("parts to ablate", what, get_args(What))
    listed, bench = check_texts(texts), Bench(explainer, sessions, max_batch)
    vectors, model = explainer.encode_texts(listed, truncate=truncate), bench.manifest.model
    name, shape = {
        "heads": ("head_gates", (model.layers, model.heads)),
        "blocks": ("block_gates", (model.layers, 2)),
        "patches": ("token_gates", bench.manifest.grid),
    }[what]
    count = shape[0] * shape[1]
    gates = bench.gates(1 + count)
    np.einsum("nn->n", gates[name][1:].reshape(count, count))[:] = 0  # row n + 1 without part n, row 0 as it is
    if head_values is not None:
        if what != "heads":
            raise OptionError("head_values stand in place of ablated heads", got=f"a sweep of {what}")
        gates["head_values"] = head_values_of(head_values, bench.manifest)
    found = matmul(bench.gated(bench.prepare(image)[0][None], gates), vectors.T)
    return Sweep(
        what=what,
        texts=tuple(listed),
        before=found[0],
        after=found[1:].reshape(*shape, -1),
        bundle=explainer.bundle.name,
        engine=bench.facts(GATES),
        encoded=len(found),
        wall_ms=(perf_counter() - started) * 1e3,
    )


def head_means(explainer: Opened, sessions: Sessions, images: Sequence[ImageLike], max_batch: int | None) -> Array:
    """What every head mixes, mean over tokens and images: [L, D]; see ``Explainer.head_means``."""
    bench, total = Bench(explainer, sessions, max_batch), 0.0
    if not images:
        raise OptionError("means of no image", got="an empty list", allowed="one image or more")
    for start in range(0, len(images), bench.encoder.batch):
        part = images[start : start + bench.encoder.batch]
        pixels = np.stack([bench.prepare(image)[0] for image in part])
        means = bench.run(GATES, {"pixels": pixels, **bench.gates(len(part))}, "head_means")
        total += means.astype(np.float64).sum(axis=0)
    return np.asarray(total / len(images), np.float32)


def _changed(bench: Bench, image: ImageLike, changes: Changes) -> tuple[str, Array]:
    """The graph, and embeddings [2, E] of the image as it is, and with pixels or parts of the model changed."""
    manifest, (pixels, crop) = bench.manifest, bench.prepare(image)
    hidden = None if changes.tokens is None else as_patches(changes.tokens, manifest.grid, crop)
    images = np.stack([pixels, pixels])
    if hidden is not None and changes.fill != "remove":
        other = filled(pixels, changes.fill, np.array(manifest.model.mean, np.float32))
        images[1] = next(patch_frames(pixels, other, [~hidden], manifest.grid, manifest.model.patch_size))
    if not changes.gated:
        return "encode", np.stack(list(bench.encoder.stream(images)))
    gates = bench.gates(2)
    for name, shut in changes.gates(manifest, hidden).items():
        gates[name][...] = shut if name == "head_values" else np.stack([gates[name][0], shut])
    return GATES, bench.gated(images, gates)


def _replaced(bench: Bench, image: ImageLike, changes: Changes) -> tuple[str, Array]:
    """The graph, and embeddings [2, E] of the image's tokens as they are, and with the region's features replaced."""
    pixels, crop = bench.prepare(image)
    region = as_patches(changes.region, bench.manifest.grid, crop).ravel()
    own = bench.hidden(pixels, changes.depth)
    state = np.stack([own, own])
    if isinstance(changes.by, str) and changes.by == "mean":
        if region.all():
            raise OptionError("the mean of the other patches", got="a region of all patches", allowed="a part of them")
        state[1, 1:][region] = own[1:][~region].mean(axis=0)
    else:
        state[1, 1:][region] = bench.hidden(bench.prepare(changes.by)[0], changes.depth)[1:][region]
    return f"tail_{changes.depth}", bench.tail(state, changes.depth)
