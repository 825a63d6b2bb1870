"""M2IB beside eager PyTorch with the same settings, threads, image and noise, checked to give the same map.

``python -m benchmarks.eager_m2ib [--model roads] [--texts 1] [--threads 1] [--rounds 7]`` prints one JSON line. Two
eager versions: ``eager`` computes the tokens below the bottleneck once, as eyeshine does; ``released`` runs the whole
image tower for every copy in every step, as the released code does (it runs the text tower as well, which is left out
here). Parameters are frozen in both: gradients of weights would be computed for nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks import environment
from benchmarks.models import configuration
from benchmarks.registry import MODELS
from benchmarks.timing import Plan, interleave
from eyeshine import Explainer
from eyeshine.methods.m2ib import M2ib
from eyeshine.methods.passes import Subject
from eyeshine_export.source import Source
from eyeshine_export.write import ExportOptions, export_bundle

__all__ = ["EagerM2ib", "compare", "main"]

AGREE = 1e-3
"""Largest relative difference of maps: float32 against float32, nine steps of Adam apart."""

Array = NDArray[np.float32]


class EagerM2ib:
    """The method in eager PyTorch: open_clip's blocks, autograd, ``torch.optim.Adam``.

    Args:
        visual: open_clip's image tower, in evaluation mode; its parameters are frozen.
        options: settings, those of the method.
        mean, std: of the pixels.
    """

    def __init__(self, visual: Any, options: M2ib, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.visual, self.options = visual.requires_grad_(False), options
        self.shift, self.scale = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))
        blocks = list(visual.transformer.resblocks)
        self.below, self.above = blocks[: -options.blocks], blocks[-options.blocks :]

    def maps(self, pixels: torch.Tensor, texts: torch.Tensor, *, again: bool) -> torch.Tensor:
        """Maps [P, N] of an image [1, 3, Y, X] in 0..1 and unit texts [P, E].

        Args:
            again: compute the tokens below the bottleneck anew for every copy in every step.
        """
        copies = pixels.expand(self.options.copies, -1, -1, -1)
        once = None if again else self._tokens(pixels)
        return torch.stack([self._map(text, lambda: self._tokens(copies) if again else once) for text in texts])

    def _map(self, text: torch.Tensor, tokens_of: Callable[[], Any]) -> torch.Tensor:
        options, random = self.options, np.random.default_rng(self.options.seed)
        alpha = torch.full_like(tokens_of()[0], options.start).requires_grad_()
        adam = torch.optim.Adam([alpha], lr=options.rate)
        information = torch.empty(0)
        for _ in range(options.steps):
            tokens, share = tokens_of(), torch.sigmoid(alpha)
            noise = torch.from_numpy(random.standard_normal((options.copies, *alpha.shape), np.float32))
            state = share * tokens + (1 - share) * noise
            for block in self.above:
                state = block(state)
            unit = F.normalize(self.visual.ln_post(state[:, 0]) @ self.visual.proj, dim=-1)
            rest = 1 - share
            information = -0.5 * (1 + 2 * torch.log(rest) - (share * tokens[0]) ** 2 - rest**2)
            loss = options.beta * information.mean() - (unit @ text).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return information.detach().nansum(-1)[1:]

    @torch.no_grad()
    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens [B, T, D] below the bottleneck."""
        visual = self.visual
        patches = visual.conv1((pixels - self.shift) / self.scale).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(pixels), 1, -1)
        tokens = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
        for block in self.below:
            tokens = block(tokens)
        result: torch.Tensor = tokens
        return result


def compare(
    visual: Any, source: Source, folder: Path, options: M2ib, texts: int, threads: int, plan: Plan
) -> dict[str, Any]:
    """Export, check that all three give one map, time them.

    Raises:
        RuntimeError: maps that differ.
    """
    export_bundle(source, folder, ExportOptions(signals=("hidden",)))
    explainer = Explainer.load(folder, threads=threads)
    model = explainer.model()
    random = np.random.default_rng(0)
    pixels = random.random((3, *model.size), dtype=np.float32)
    vectors = random.standard_normal((texts, source.config.embed_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    eager = EagerM2ib(visual, options, source.normalisation.mean, source.normalisation.std)
    image, unit = torch.from_numpy(pixels)[None], torch.from_numpy(vectors)
    cases: dict[str, Callable[[], Any]] = {
        "eyeshine": partial(options.explain, Subject(pixels, 0, vectors), model),
        "eager": partial(eager.maps, image, unit, again=False),
        "released": partial(eager.maps, image, unit, again=True),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = {name: np.asarray(run()) for name, run in cases.items()}
        off = {name: float(np.abs(m - found["eager"]).max() / found["eager"].max()) for name, m in found.items()}
        if max(off.values()) > AGREE:
            raise RuntimeError(f"maps differ: {off}")
        timings = interleave(cases, plan)
    finally:
        torch.set_num_threads(before)
    return {
        "p50_ms": {name: round(timings.percentile_ms(name, 50), 2) for name in cases},
        "eager_over_eyeshine": round(timings.ratio("eager", "eyeshine"), 3),
        "released_over_eyeshine": round(timings.ratio("released", "eyeshine"), 3),
        "map_difference": off,
        "rounds": timings.rounds,
        "texts": texts,
        "threads": threads,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="roads", choices=sorted(MODELS))
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args(arguments)
    made = configuration(asked.model)
    network = made.build()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(rounds=asked.rounds, budget_s=600, fewest=min(5, asked.rounds), warmup=1)
        row = compare(
            network.visual, made.source(network), Path(folder) / made.name, M2ib(), asked.texts, asked.threads, plan
        )
    print(json.dumps({"case": "m2ib", "model": made.name, **row, **environment.origin()}))


if __name__ == "__main__":
    main()
