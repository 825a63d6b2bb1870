"""Train the captioner on road scenes, on one CPU thread.

The tower is frozen: a store holds what it sees of each scene. The loss is the cross-entropy of the answers' words.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from eyeshine import Bundle
from eyeshine.captioner.words import END, PAD, SPECIAL, Words
from eyeshine.errors import OptionError
from eyeshine_export.captioner.data import Store, fill_store
from eyeshine_export.captioner.model import Captioner, Shape
from eyeshine_export.captioner.questions import Exchange, exam, vocabulary

__all__ = ["Options", "Trainer", "load", "sequence"]

_NO_TARGET = -100  # what cross_entropy ignores


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        minutes: how long; the learning rate follows the share that has passed.
        images: scenes a step, eight questions each.
        rate: highest learning rate; ``warmup``: share of the run before it is reached.
        decay: of the weights; ``ema``: decay of the averaged weights, which are the ones that are saved.
        unknown: share of questions with an unknown word somewhere, which must not change the answer.
        bf16: forward and backward products in bfloat16.

    Raises:
        OptionError: an option outside its range.
    """

    minutes: float
    images: int = 16
    rate: float = 2e-3
    warmup: float = 0.03
    decay: float = 0.05
    ema: float = 0.998
    unknown: float = 0.05
    bf16: bool = True
    checkpoint_every: float = 120.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.images < 1 or self.rate <= 0:
            raise OptionError("not a run", got=asdict(self), allowed="minutes, images and rate above 0")
        for name in ("warmup", "decay", "ema", "unknown"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} is out of range", got=getattr(self, name), allowed="0 to below 1")


def sequence(words: Words, exchange: Exchange, context: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids [context] of a question and its answer, and the id to predict at each place [context], -100 for none.

    Raises:
        OptionError: longer than the context.
    """
    question, answer = words.prompt(exchange[0]), [*words.encode(exchange[1]), END]
    ids = np.array([*question, *answer], dtype=np.int64)
    if len(ids) > context:
        raise OptionError("exchange too long", got=f"{len(ids)} words: {exchange}", allowed=f"up to {context}")
    tokens, targets = np.full(context, PAD, np.int64), np.full(context, _NO_TARGET, np.int64)
    tokens[: len(ids)] = ids
    targets[len(question) - 1 : len(ids) - 1] = answer
    return tokens, targets


def answer_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the cross-entropy of the answers' words, logits [B, Q, T, W], targets [B, Q, T].

    A word of an answer of n words weighs 1/sqrt(n): between all words alike, where "yes" and "no" drown in the
    descriptions, and all answers alike, where each word of a description hardly counts.
    """
    words = (targets != _NO_TARGET).float()
    weight = words / words.sum(-1, keepdim=True).clamp(min=1).sqrt()
    losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=_NO_TARGET, reduction="none")
    return (losses * weight.flatten()).sum() / weight.sum()


def _optimisers(model: Captioner, options: Options) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the blocks, AdamW for all else, as the tower was trained."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name.startswith("blocks") and p.ndim == 2]
    others = [p for name, p in named if not (name.startswith("blocks") and p.ndim == 2)]
    return (
        torch.optim.Muon(matrices, lr=options.rate, weight_decay=options.decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=options.rate, weight_decay=options.decay, betas=(0.9, 0.98), fused=True),
    )


class Trainer:
    """A run: its model, averaged weights, optimisers and random state.

    Args:
        options: how to train.
        store: the scenes.
        start: folder of a run whose weights this one begins with; by default they are random.
        fresh: names of weights that are random nevertheless.

    Raises:
        OptionError: a run of another shape or vocabulary.
    """

    def __init__(self, options: Options, store: Store, start: Path | None = None, fresh: Collection[str] = ()) -> None:
        torch.manual_seed(options.seed)
        self.options, self.store = options, store
        self.words = Words((*SPECIAL, *vocabulary()))
        patches, features = store.features.shape[1:]
        self.shape = Shape(len(self.words.names), patches, Bundle.open().manifest.grid[1], features)
        self.model, self.before = Captioner(self.shape), dict[str, Any]()
        if start is not None:
            model, words, self.before = load(start)
            if words != self.words or model.shape != self.shape:
                raise OptionError("another captioner to start from", got=model.shape, allowed=str(self.shape))
            kept = {name: tensor for name, tensor in model.state_dict().items() if name not in fresh}
            self.model.load_state_dict(self.model.state_dict() | kept)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimisers = _optimisers(self.model, options)
        self.rng = np.random.default_rng(options.seed)
        self.steps, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """The share of the run that has passed, 0 to 1."""
        return min(1.0, self.seconds / 60 / self.options.minutes)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [B, N, F], tokens and targets [B, Q, T], cut to the longest sequence."""
        numbers = np.sort(self.rng.choice(self.store.ready(), size=self.options.images, replace=False))
        rows = [self._rows(int(number)) for number in numbers]
        tokens, targets = (np.stack([[row[k] for row in scene] for scene in rows]) for k in (0, 1))
        length = int((tokens != PAD).sum(-1).max())
        features = torch.from_numpy(self.store.features[numbers].astype(np.float32))
        return features, torch.from_numpy(tokens[..., :length]), torch.from_numpy(targets[..., :length])

    def _rows(self, number: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        rows = []
        for question, answer in exam(self.store.truth(number), self.rng):
            asked = question.split()
            if self.rng.random() < self.options.unknown:
                asked.insert(int(self.rng.integers(len(asked) + 1)), "§")
            rows.append(sequence(self.words, (" ".join(asked), answer), self.shape.context))
        return rows

    def _set_rate(self) -> None:
        p, o = self.progress, self.options
        ramp = min(1.0, (p + 1e-3) / o.warmup) if o.warmup else 1.0
        for group in (g for optimiser in self.optimisers for g in optimiser.param_groups):
            group["lr"] = o.rate * ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * p)))

    def step(self) -> float:
        """One step on scenes drawn at random; returns its loss per word."""
        began = time.perf_counter()
        self._set_rate()
        features, tokens, targets = self._batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.options.bf16):
            logits = self.model(tokens, *self.model.memory(features))
        loss = answer_loss(logits.float(), targets)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        decay = min(self.options.ema, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        self.steps += 1
        self.seconds += time.perf_counter() - began
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        """Write the averaged model, its shape and vocabulary, and what is known of the run."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.average.items()}, folder / "model.part")
        (folder / "model.part").replace(folder / "model.safetensors")
        facts = {
            "scenes": self.store.ready(), "steps": self.steps, "minutes": round(self.seconds / 60, 1),
            "options": asdict(self.options), "before": self.before,
        }  # fmt: skip
        record = {"shape": asdict(self.shape), "words": list(self.words.names), "training": facts}
        (folder / "config.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[Captioner, Words, dict[str, Any]]:
    """The model (in evaluation mode), vocabulary and training facts of a run folder.

    Raises:
        OptionError: the folder holds no run.
    """
    if not (folder / "model.safetensors").exists():
        raise OptionError("no captioner in this folder", got=folder, cure=f"python -m {__name__} --out {folder}")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Captioner(Shape(**record["shape"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), Words(tuple(record["words"])), record["training"]


def run(trainer: Trainer, folder: Path) -> None:
    """Train until the time is over, with a log line every 50 steps and a checkpoint now and then."""
    folder.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    saved = time.perf_counter()
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        while trainer.progress < 1:
            losses.append(trainer.step())
            if trainer.steps % 50 == 0:
                pace = 1e3 * trainer.seconds / trainer.steps
                log.write(f"step {trainer.steps} {100 * trainer.progress:.1f}% loss {np.mean(losses):.4f} ")
                log.write(f"{pace:.0f} ms/step {trainer.store.ready()} scenes\n")
                log.flush()
                losses = []
            if time.perf_counter() - saved > trainer.options.checkpoint_every:
                trainer.save(folder)
                saved = time.perf_counter()
    trainer.save(folder)


def main() -> None:
    """Fill the store if it lacks scenes, and train, from the command line."""
    parser = argparse.ArgumentParser(description="Train the captioner of the embedded model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="folder of scenes as the tower sees them, 3.6 GB")
    parser.add_argument("--scenes", type=int, default=24000, help="0 takes what is in the store")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--start", type=Path, help="a run to go on from, with fresh optimisers")
    parser.add_argument("--fresh", nargs="*", default=[], help="weights not to take from it")
    parser.add_argument("--rate", type=float, default=Options.rate)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.scenes:
        fill_store(given.store, count=given.scenes)
    options = Options(minutes=given.minutes, rate=given.rate)
    run(Trainer(options, Store(given.store), given.start, given.fresh), given.out)


if __name__ == "__main__":
    main()
