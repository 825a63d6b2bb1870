"""Train the small road CLIP from nothing.

The loss is SigLIP's: a sigmoid for every pair of a picture of the batch and a text of the step, positive where the
text is true of that scene. Truth comes from the list of what is in the scene (see ``texts``); masks never enter.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from eyeshine_export.roads.config import Options, Shape, build, encode_text, make_tokenizer, scaled
from eyeshine_export.roads.data import Store
from eyeshine_export.roads.dropout import withhold
from eyeshine_export.roads.texts import pool, token_ids, truth

_SCALE, _BIAS = math.log(10.0), -2.0  # of the logits, to begin with
_SPARSE = 4  # objects in the scenes of the first part of a run


def _optimisers(model: torch.nn.Module, options: Options) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the blocks, where it learns in about half the steps; AdamW for all else."""
    inside = {name for name, p in model.named_parameters() if "resblocks" in name and p.ndim == 2}
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name in inside]
    decayed = [p for name, p in named if name not in inside and p.ndim >= 2]
    plain = [p for name, p in named if name not in inside and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": options.decay}, {"params": plain, "weight_decay": 0.0}]
    return (
        torch.optim.Muon(matrices, lr=options.rate, weight_decay=options.decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), fused=True),
    )


class Trainer:
    """A run: its model, averaged weights, optimiser and random states; all of them are in its checkpoint."""

    def __init__(self, shape: Shape, options: Options, store: Store) -> None:
        torch.manual_seed(options.seed)
        self.options, self.store = options, store
        self.configuration = shape.configuration()
        self.tokenizer = make_tokenizer(shape.context)
        self.model = build(self.configuration)
        self.dropout = withhold(
            self.model.visual, patches=options.patch_dropout, local=options.local, forget=options.forget
        )
        with torch.no_grad():
            self.model.logit_scale.fill_(_SCALE)
            self.model.logit_bias.fill_(_BIAS)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimisers = _optimisers(self.model, options)
        self.rng = np.random.default_rng(options.seed)
        self.threads = ThreadPoolExecutor(options.shards, initializer=torch.set_num_threads, initargs=(1,))
        self.step_count, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """The share of the run that has passed, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.step_count / self.options.steps)
        assert self.options.minutes is not None  # Options sees to it
        return min(1.0, self.seconds / 60 / self.options.minutes)

    def _set_schedule(self) -> None:
        p, o = self.progress, self.options
        ramp = min(1.0, (p + 1e-3) / o.warmup) if o.warmup else 1.0
        rate = o.rate * ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * p)))
        for group in (g for optimiser in self.optimisers for g in optimiser.param_groups):
            group["lr"] = rate
        self.dropout.prob = o.patch_dropout if p < o.full_from else 0.0

    def _shard(self, size: int, seed: int) -> tuple[float, list[torch.Tensor]]:
        """The loss per pair of ``size`` fresh scenes and their texts, and its gradients."""
        rng = np.random.default_rng(seed)
        most = _SPARSE if self.progress < self.options.sparse_until else None
        pixels, rows = self.store.batch(rng.choice(self.store.ready(most=most), size=size), rng)
        texts = pool(rows, self.options.texts, rng)
        sign = torch.from_numpy(truth(rows, texts)).float() * 2 - 1
        ids = torch.from_numpy(token_ids(self.tokenizer, texts))
        images = scaled(torch.from_numpy(pixels))
        images = images * torch.from_numpy(rng.uniform(0.85, 1.15, (size, 1, 1, 1))).float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.options.bf16):
            seen = self.model.encode_image(images, normalize=True)
            said = encode_text(self.model, ids)
        logits = self.model.logit_scale.exp() * seen.float() @ said.float().T + self.model.logit_bias
        loss = -torch.nn.functional.logsigmoid(sign * logits).mean()
        gradients = torch.autograd.grad(loss * len(texts), list(self.model.parameters()))
        return float(loss.detach()), list(gradients)

    def step(self) -> float:
        """One step on fresh scenes; returns its loss per pair.

        The batch is cut into shards, each with its own texts and its own thread: on a busy machine, two threads that
        meet once a step wait far less for each other than two that meet in every operator.
        """
        began = time.perf_counter()
        self._set_schedule()
        self.model.train()
        shards = self.options.shards
        seeds = [int(k) for k in self.rng.integers(2**62, size=shards)]
        results = list(self.threads.map(self._shard, [self.options.batch // shards] * shards, seeds))
        for parameter, *parts in zip(self.model.parameters(), *(gradients for _, gradients in results), strict=True):
            parameter.grad = torch.stack(parts).mean(0) if shards > 1 else parts[0]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self._average()
        self.step_count += 1
        self.seconds += time.perf_counter() - began
        return float(np.mean([loss for loss, _ in results]))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.options.ema, (1 + self.step_count) / (10 + self.step_count))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def save(self, folder: Path) -> None:
        """Write the averaged model (open_clip layout), and what ``resume`` needs, into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.configuration, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.save(str(folder / "tokenizer.json"))
        save_file({k: v.contiguous() for k, v in self.average.items()}, folder / "model.safetensors")
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "step": self.step_count,
            "seconds": self.seconds,
        }
        torch.save(state, folder / "state.part")
        (folder / "state.part").replace(folder / "state.pt")

    def resume(self, folder: Path) -> None:
        """Go on from the checkpoint in ``folder``, exactly where it stopped."""
        state = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        self.step_count, self.seconds = state["step"], state["seconds"]


def run(trainer: Trainer, folder: Path) -> None:
    """Train until the run's bound is reached, writing a log line every 50 steps and a checkpoint now and then."""
    folder.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    saved = began = time.perf_counter()
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        while trainer.progress < 1:
            losses.append(trainer.step())
            if trainer.step_count % 50 == 0:
                now = time.perf_counter()
                pace = len(losses) * trainer.options.batch / (now - began)
                scale = float(trainer.model.logit_scale.detach().exp())
                log.write(
                    f"step {trainer.step_count} {100 * trainer.progress:.1f}% loss {np.mean(losses):.4f} "
                    f"scale {scale:.1f} bias {float(trainer.model.logit_bias.detach()):.2f} {pace:.0f} images/s\n"
                )
                log.flush()
                losses, began = [], now
            if time.perf_counter() - saved > trainer.options.checkpoint_every:
                trainer.save(folder)
                saved = time.perf_counter()
    trainer.save(folder)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the road CLIP.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="scenes rendered by eyeshine_export.roads.data")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--rate", type=float, default=Options.rate)
    parser.add_argument("--batch", type=int, default=Options.batch)
    parser.add_argument("--width", type=int, default=Shape.width)
    parser.add_argument("--patch-dropout", type=float, default=Options.patch_dropout)
    parser.add_argument("--ema", type=float, default=Options.ema)
    given = parser.parse_args()
    torch.set_num_threads(2)
    options = Options(
        minutes=given.minutes, rate=given.rate, batch=given.batch, patch_dropout=given.patch_dropout, ema=given.ema
    )
    trainer = Trainer(Shape(width=given.width), options, Store(given.store))
    if given.resume and (given.out / "state.pt").exists():
        trainer.resume(given.out)
    run(trainer, given.out)


if __name__ == "__main__":
    main()
