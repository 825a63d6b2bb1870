"""Whether a captioner's maps show what its answers rest on: pointing, and taking the evidence away."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from eyeshine.captioner import Captioner, Form, Intervention, MapOptions, Seen
from eyeshine.captioner.intervention import patches_in
from eyeshine.errors import OptionError
from eyeshine.roads import LABELS, Scene, article
from eyeshine_export.captioner.answers import DESCRIBE, LIST
from eyeshine_export.captioner.tally import Tally

__all__ = ["DELETED", "check_answer", "check_responses"]

DELETED = 20  # patches of 196 whose features are replaced

Mask = NDArray[np.bool_]


def _ways(layers: int) -> dict[str, MapOptions]:
    """Both forms of the map, by all layers and by the last one alone."""
    last = tuple(float(layer == layers - 1) for layer in range(layers))
    return {
        f"{form}, {name}": MapOptions(form, strengths)
        for form, (name, strengths) in product(get_args(Form), (("all layers", None), ("last layer", last)))
    }


def _mask(scene: Scene, label: str) -> Mask:
    masks = [thing.mask for thing in scene.objects if thing.label == label]
    found: Mask = np.any(masks, axis=0) if masks else np.zeros(scene.image.shape[:2], np.bool_)
    return found


def _hit(heat: NDArray[np.float32], mask: Mask) -> bool:
    """Whether the hottest pixel is on the mask; a map without evidence hits nothing."""
    return bool(heat.max() > 0 and mask.reshape(-1)[int(heat.argmax())])


def check_answer(
    captioner: Captioner, seen: Seen, scene: Scene, label: str, tally: Tally, rng: np.random.Generator
) -> None:
    """A right "yes" about a label: where it points, and what is left of it without the object's features."""
    prompt, mask = f"is there {article(label)}?", _mask(scene, label)
    tally.add("chance", mask.mean())
    for name, options in _ways(captioner.manifest.layers).items():
        tally.add(f"pointing {name}", _hit(captioner.explain(seen, prompt, "yes", options).heatmap(), mask))
    try:
        patches = patches_in(mask, mask.shape, seen.crop, captioner.manifest.grid)
    except OptionError:  # no patch is covered by a quarter
        return
    elsewhere = _moved(patches, rng)
    if elsewhere is None:
        return
    for name, chosen in (("object", patches), ("elsewhere", elsewhere)):
        result = _without(captioner, seen, prompt, chosen)
        tally.add(f"intervention {name}: turned to no", result.after.text == "no")
        tally.add(f"intervention {name}: change of log-likelihood", result.log_likelihood_change)


def _moved(patches: Mask, rng: np.random.Generator) -> Mask | None:
    """The same shape somewhere else, round the edges if need be; None if no place was found."""
    for _ in range(50):
        moved = np.roll(patches, tuple(int(k) for k in rng.integers(patches.shape)), axis=(0, 1))
        if not (moved & patches).any():
            return moved
    return None


def _without(captioner: Captioner, seen: Seen, prompt: str, patches: Mask) -> Intervention:
    """Replace the features of some patches; scenes are whole patches large."""
    height, width = seen.photo.shape[:2]
    block = np.ones((height // patches.shape[0], width // patches.shape[1]), np.bool_)
    return captioner.intervene(seen, prompt, np.kron(patches, block))


def check_responses(captioner: Captioner, seen: Seen, scene: Scene, tally: Tally, rng: np.random.Generator) -> None:
    """Where the words of a list point, and what is left of a description without its hottest patches."""
    grid = captioner.manifest.grid
    chosen = np.zeros(grid[0] * grid[1], np.bool_)
    chosen[rng.permutation(chosen.size)[:DELETED]] = True
    for name, options in _ways(captioner.manifest.layers).items():
        listed = captioner.explain(seen, LIST, options=options)
        for label, place in _label_places(listed.response.tokens):
            mask = _mask(scene, label)
            if mask.any():
                tally.add(f"word pointing {name}", _hit(listed.heatmap(place), mask))
        hottest = np.zeros_like(chosen)
        hottest[np.argsort(-captioner.explain(seen, DESCRIBE, options=options).map.reshape(-1))[:DELETED]] = True
        tally.add(f"deletion {name}", _without(captioner, seen, DESCRIBE, hottest.reshape(grid)).log_likelihood_change)
    tally.add("deletion at random", _without(captioner, seen, DESCRIBE, chosen.reshape(grid)).log_likelihood_change)


def _label_places(words: tuple[str, ...]) -> list[tuple[str, int]]:
    """Labels among words, with the place of each one's last word."""
    found = []
    for place, label in product(range(len(words)), LABELS):
        parts = tuple(label.split())
        if words[max(0, place + 1 - len(parts)) : place + 1] == parts:
            found.append((label, place))
    return found
