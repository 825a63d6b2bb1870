"""Score a road CLIP on held-out scenes: presence by ROC-AUC, place by the pointing game.

The maps here come from torch's autograd and serve to watch a training run; the project's own figures come from the
exported bundle, by the same functions of ``scores``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from eyeshine import roads
from eyeshine.errors import OptionError
from eyeshine_export.roads.config import load, scaled
from eyeshine_export.roads.data import SIDE, to_model_size
from eyeshine_export.roads.heat import LastBlock, heat_maps, last_block
from eyeshine_export.roads.scores import mean_by_class, points_at, roc_auc


@dataclass(frozen=True)
class Example:
    """A held-out scene at the model's size: uint8 [112, 112, 3], and bool [112, 112] per label that is there."""

    pixels: npt.NDArray[np.uint8]
    masks: dict[str, npt.NDArray[np.bool_]]


def held_out(count: int, first: int = roads.HELD_OUT_FROM) -> Iterator[Example]:
    """The first ``count`` held-out scenes.

    Raises:
        OptionError: ``first`` is a training seed.
    """
    if first < roads.HELD_OUT_FROM:
        raise OptionError("not a held-out seed", got=first, allowed=f"{roads.HELD_OUT_FROM} and above")
    for seed in range(first, first + count):
        scene = roads.render(seed=seed)
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        for thing in scene.objects:
            side = scene.image.shape[0] // 2
            half = thing.mask.reshape(side, 2, side, 2).mean(axis=(1, 3)) >= 0.5
            masks[thing.label] = masks.get(thing.label, np.zeros((SIDE, SIDE), dtype=np.bool_)) | half
        yield Example(to_model_size(scene.image), masks)


def label_targets(model: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Unit directions [labels, E] per target: the text itself, and the text less the mean of the other labels'."""
    ids = torch.tensor([row.ids for row in tokenizer.encode_batch([roads.article(x) for x in roads.LABELS])])
    with torch.no_grad():
        own = model.encode_text(ids, normalize=True)
    others = (own.sum(0) - own) / (len(own) - 1)
    return {"self": own, "mean": F.normalize(own - others, dim=-1)}


class _Tally:
    """Hits of every way to point, by class."""

    def __init__(self) -> None:
        self.hits: dict[str, list[float]] = defaultdict(list)
        self.classes: dict[str, list[int]] = defaultdict(list)

    def add(self, name: str, label: int, value: float) -> None:
        self.hits[name].append(value)
        self.classes[name].append(label)

    def means(self) -> dict[str, float]:
        count = len(roads.LABELS)
        return {n: mean_by_class(np.array(h), np.array(self.classes[n]), count) for n, h in self.hits.items()}

    def of_label(self, name: str, label: int) -> float:
        own = [h for h, k in zip(self.hits[name], self.classes[name], strict=True) if k == label]
        return float(np.mean(own)) if own else float("nan")


def _point(tally: _Tally, part: list[Example], block: LastBlock, targets: dict[str, torch.Tensor]) -> None:
    for k, label in enumerate(roads.LABELS):
        there = [b for b, example in enumerate(part) if label in example.masks]
        for b in there:
            tally.add("chance", k, float(part[b].masks[label].mean()))
        for target, directions in targets.items():
            for method, maps in heat_maps(block, directions[k]).items():
                side = int(maps.shape[-1] ** 0.5)
                grids = maps.reshape(-1, side, side).numpy()
                for b in there:
                    tally.add(f"{method}/{target}", k, points_at(grids[b], part[b].masks[label]))


def evaluate(folder: Path, *, count: int) -> dict[str, float]:
    """Score the model of a run folder on the first ``count`` held-out scenes.

    Returns:
        ``auc``, ``chance`` and ``METHOD/TARGET`` (pointing), each a mean over classes, 0 to 1; then ``auc LABEL`` and
        ``METHOD/TARGET LABEL``.
    """
    model, tokenizer, _ = load(folder)
    targets = label_targets(model, tokenizer)
    examples, tally = list(held_out(count)), _Tally()
    scores: list[npt.NDArray[np.float32]] = []
    for start in range(0, count, 50):
        part = examples[start : start + 50]
        block = last_block(model, scaled(torch.from_numpy(np.stack([e.pixels for e in part]))))
        scores.append((block.embed(block.output) @ targets["self"].T).detach().numpy())
        _point(tally, part, block, targets)
    every = np.concatenate(scores)
    presence = [
        roc_auc(every[:, k], np.array([label in e.masks for e in examples])) for k, label in enumerate(roads.LABELS)
    ]
    out = {"auc": float(np.nanmean(presence)), **tally.means()}
    for k, label in enumerate(roads.LABELS):
        out[f"auc {label}"] = presence[k]
        out |= {f"{name} {label}": tally.of_label(name, k) for name in tally.hits if name.endswith("/mean")}
    return out


def main() -> None:
    """Print the scores of a run folder."""
    parser = argparse.ArgumentParser(description="Score a road CLIP on held-out scenes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    for name, value in evaluate(given.folder, count=given.count).items():
        print(f"{name:32s} {value:.3f}")


if __name__ == "__main__":
    main()
